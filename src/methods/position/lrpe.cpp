#include <c10/core/GradMode.h>

#include <cmath>

#include "kernels/rotate.h"
#include "methods/position/position.h"

namespace formwork {
namespace {

struct LrpeOptions {
  std::string householder = "fixed";
  bool theta_learned = true;
  double base = 10000.0;
  void describe(OptionSet& o) {
    o.add("householder", householder,
          "the reflection before the rotation: at a fixed random vector, at a trained one, or none",
          one_of({"fixed", "learned", "none"}));
    o.add("theta_learned", theta_learned, "train the angle that a position adds to each pair");
    o.add("base", base, "angles start at base^(-2c/K) for pair c", above(0));
  }
};

/// Linearised relative positions: queries and keys are reflected, x - 2 (x·v) v with a unit vector
/// v [K], and then pair c of channels (2c, 2c+1) turns by position · theta_c. Both parts are
/// orthogonal, so q_i·k_j depends on the positions through i - j only; the reflection chooses which
/// directions turn together. theta and v are shared by all heads, by queries and keys, and differ
/// from layer to layer; the last channel of an odd K does not turn. Trained v is divided by
/// |v| + 1e-6. The released Long Range Arena code has householder none and theta_learned false.
/// Qin et al. 2022, arXiv 2210.10340 and 2307.09270.
class Lrpe final : public Position {
 public:
  Lrpe(const LrpeOptions& options, const PositionSite& site)
      : learned_mirror_(options.householder == "learned"), learned_angles_(options.theta_learned) {
    check(site.head_width >= 2, "position.kind", "'lrpe' turns pairs of channels, but heads have ",
          site.head_width, "; valid: model.width at least twice model.heads");
    const int64_t pairs = site.head_width / 2;
    const Tensor exponent =
        at::arange(pairs, at::kDouble) * (-2.0 / static_cast<double>(site.head_width));
    const Tensor start = at::pow(options.base, exponent).to(at::kFloat).view({1, 1, pairs});
    theta_ = learned_angles_ ? add_parameter("theta", start, Role::position)
                             : add_buffer("theta", start);
    if (options.householder == "none") return;
    Tensor mirror = normal_tensor({site.head_width}, 1.0, site.random.child("v"));
    mirror /= mirror.norm();
    v_ = learned_mirror_ ? add_parameter("v", mirror, Role::position) : add_buffer("v", mirror);
  }
  static Traits traits(const LrpeOptions&) { return {.rotates = true, .shared = false}; }

  Tensor rotate(const Tensor& x, const Tensor& positions) override {
    const auto type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    // In float64: the angle of a far position would lose its digits.
    Tensor angles = positions.to(at::kDouble).unsqueeze(-1) * theta_.to(at::kDouble).view({-1});
    if (positions.dim() == 2) angles = angles.unsqueeze(1);
    const Tensor cosine = angles.cos().to(type), sine = angles.sin().to(type);
    const Tensor mirrored = reflect(x);
    // The fast rotation has no gradient for its angles.
    const bool trains = learned_angles_ && c10::GradMode::is_enabled() && theta_.requires_grad();
    if (!trains) return rotate_pairs(mirrored, cosine, sine, Pairing::interleaved);
    return rotate_pairs_reference(mirrored.to(type), cosine, sine, Pairing::interleaved)
        .to(x.scalar_type());
  }

 private:
  Tensor reflect(const Tensor& x) const {
    if (!v_.defined()) return x;
    Tensor v = v_;
    if (learned_mirror_) v = v / (at::linalg_vector_norm(v) + 1e-6);
    v = v.to(x.scalar_type());
    return x - 2.0 * (x * v).sum(-1, true) * v;
  }

  bool learned_mirror_, learned_angles_;
  Tensor theta_, v_;
};

const Register<Position, Lrpe, LrpeOptions> lrpe{
    "lrpe", "queries and keys reflected, then turned by trained angles", cite("2210.10340"),
    specified_by("transnormer")};

}  // namespace
}  // namespace formwork

#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "kernels/linear_map.h"
#include "methods/linear/linear.h"

namespace formwork {
namespace {

constexpr double kSmallest = 1e-12;  // least length that is divided by, as the released code has it

struct SigmaOptions {
  std::string apply_to = "all";
  std::vector<std::string> roles;
  std::string gamma_init = "sigma";
  double init_gain = 1.0, conv_gain = 1.0;
  int64_t n_iter = 1;
  bool svd_init = true, fp32_power = true, stats_only = false;

  void describe(OptionSet& o) {
    o.add("apply_to", apply_to,
          "which linear maps: all (the head too, unless it is tied to the embedding), those of the "
          "attention, or those of `roles`; the others stay plain",
          one_of({"all", "attention", "roles"}));
    o.add("roles", roles,
          "with apply_to = \"roles\": query, key, value, output, up, gate, down ...");
    o.add("gamma_init", gamma_init,
          "the scale at the start: the weight's own largest singular value, or one",
          one_of({"sigma", "one"}));
    o.add("init_gain", init_gain, "factor on the weights at the start", above(0));
    o.add("conv_gain", conv_gain,
          "further factor for the map that embeds patches; 0.125 in the released large models",
          above(0));
    o.add("n_iter", n_iter, "power iterations a step", at_least(1));
    o.add("svd_init", svd_init,
          "start the power iteration at the exact singular vector, not at a random one");
    o.add("fp32_power", fp32_power,
          "power iteration in float32 at least, whatever the type of the weights");
    o.add("stats_only", stats_only, "track the singular value and leave the weight as it is");
    o.require(
        "roles", [this] { return (apply_to == "roles") == !roles.empty(); },
        "names the maps where apply_to = \"roles\", and is empty otherwise");
  }

  bool reaches(Role role) const {
    if (apply_to == "all") return true;
    if (apply_to == "attention")
      return role == Role::query || role == Role::key || role == Role::value ||
             role == Role::output;
    return std::any_of(roles.begin(), roles.end(), [&](const std::string& name) {
      return role_from_name(name, "model.linear.roles") == role;
    });
  }
};

/// An estimate of the largest singular value and of its vectors.
struct Singular {
  Tensor sigma;  // [1]
  Tensor u, v;   // right [in] and left [out], of length 1
};

/// Mixed precision would run these products in bfloat16.
struct FullPrecision {
  c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::autocast_dispatch_keyset};
  c10::InferenceMode no_inference{false};  // what is kept must serve training too
  at::NoGradGuard no_grad;
};

Tensor unit(const Tensor& x) {
  return x / at::linalg_vector_norm(x).clamp_min(kSmallest);
}

/// v = unit(W u), u' = unit(Wᵀ v), `n` times; sigma = ‖Wᵀ v‖ = vᵀ W u'.
Singular power_iteration(const Tensor& weight, const Tensor& start, int64_t n) {
  const FullPrecision guard;
  Singular found{{}, start, {}};
  for (int64_t i = 0; i < n; ++i) {
    found.v = unit(at::mv(weight, found.u));
    const Tensor next = at::mv(weight.t(), found.v);
    found.sigma = at::linalg_vector_norm(next).view({1});
    found.u = next / found.sigma.clamp_min(kSmallest);
  }
  return found;
}

/// The exact right singular vector, by the eigenvectors of the smaller Gram matrix.
Tensor right_singular_vector(const Tensor& weight) {
  const bool wide = weight.size(1) > weight.size(0);
  const Tensor w = weight.to(at::kDouble);
  const Tensor gram = wide ? at::mm(w, w.t()) : at::mm(w.t(), w);
  const Tensor top = std::get<1>(at::linalg_eigh(gram)).select(1, -1);
  return (wide ? unit(at::mv(w.t(), top)) : top).contiguous();
}

/// sigma as a function of the weight: its gradient is v uᵀ; u and v are constants.
struct SpectralNorm : torch::autograd::Function<SpectralNorm> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& weight,
                        const Tensor& sigma, const Tensor& u, const Tensor& v) {
    context->save_for_backward({u, v});
    context->saved_data["type"] = static_cast<int64_t>(weight.scalar_type());
    return sigma.clone();
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const auto type = static_cast<at::ScalarType>(context->saved_data["type"].toInt());
    const Tensor slope = at::outer(saved[1] * gradients[0], saved[0]).to(type);
    return {slope, Tensor(), Tensor(), Tensor()};
  }
};

/// What tells one content of a tensor from another.
struct Stamp {
  const void* data = nullptr;
  uint32_t version = 0;
  explicit Stamp(const Tensor& tensor)
      : data(tensor.const_data_ptr()), version(static_cast<uint32_t>(tensor._version())) {}
  Stamp() = default;
  bool operator==(const Stamp&) const = default;
};

/// y = x Wᵀ (gamma / sigma(W)) + b: the largest singular value of the map is the trained number
/// gamma. The scaled weight is never formed. sigma and its vectors u, v, which carry no gradient,
/// come from one power iteration before each training step, so micro-batches share them (the
/// released code iterates in every forward pass); in evaluation one more iteration runs from the
/// stored u and is not kept. A convolution is this map on unfolded patches. The released models
/// drop all norms (model.norm and model.wiring = none).
/// gamma_init sigma (W unchanged at the start) is the released PyTorch code, one its JAX code.
/// 4·in·out operations a step. Zhai et al. 2023, arXiv 2303.06296.
class SigmaReparam final : public Linear {
 public:
  SigmaReparam(const SigmaOptions& options, const LinearSite& site)
      : options_(options), reached_(options.reaches(site.role)) {
    Tensor start = initial_weight(site.init, site.out, site.in, site.role, site.depth, site.random);
    if (reached_) start.mul_(options.init_gain);
    if (reached_ && site.role == Role::embedding) start.mul_(options.conv_gain);
    weight_ = add_parameter("weight", start, site.role);
    if (site.bias) bias_ = add_parameter("bias", at::zeros({site.out}), Role::bias);
    if (reached_) begin(start, site);
  }
  static Traits traits(const SigmaOptions& options) {
    return {.head = options.reaches(Role::head)};
  }

  bool steady() const override { return false; }
  void before_step(const Elapsed&) override {
    if (!reached_) return;
    const at::NoGradGuard no_grad;
    const Singular now = power_iteration(wide(weight_), wide(u_), options_.n_iter);
    u_.copy_(now.u);
    v_.copy_(now.v);
    sigma_.copy_(now.sigma);
    effective_.copy_(gamma_.defined() ? gamma_ : now.sigma);
    refreshed_ = Stamp(weight_);
    evaluated_ = {};
  }

  Tensor forward(const Tensor& x) override {
    if (!gamma_.defined()) return linear_map(x, weight_, bias_);
    const Tensor y = linear_map(x, weight_) * scale();
    return bias_.defined() ? y + bias_.to(y.scalar_type()) : y;
  }
  Tensor weight() const override {
    return gamma_.defined() ? (weight_ * scale()).to(weight_.scalar_type()) : weight_;
  }
  Tensor bias() const override { return bias_; }

 private:
  void begin(const Tensor& start, const LinearSite& site) {
    const Tensor u = options_.svd_init
                         ? right_singular_vector(start)
                         : unit(normal_tensor({site.in}, 1.0, site.random.child("u")));
    const Singular found =
        power_iteration(start.to(u.scalar_type()), u, options_.svd_init ? 1 : options_.n_iter);
    check(
        found.sigma.item<double>() > 0.0, "model.linear.kind",
        "'sigma_reparam' divides by the largest singular value, but all weights of a map of role ",
        role_name(site.role),
        " start at 0; valid: another model.init.kind, or model.linear.apply_to without it");
    u_ = add_buffer("u", found.u.to(at::kFloat));
    v_ = add_buffer("v", found.v.to(at::kFloat));
    sigma_ = add_buffer("spectral_norm", found.sigma.to(at::kFloat));
    const Tensor gamma =
        options_.gamma_init == "sigma" ? sigma_.clone() : at::ones({1}, sigma_.options());
    effective_ =
        add_buffer("effective_spectral_norm", options_.stats_only ? sigma_.clone() : gamma.clone());
    if (!options_.stats_only) gamma_ = add_parameter("gamma", gamma, Role::norm);
    refreshed_ = Stamp(weight_);
  }

  Tensor wide(const Tensor& x) const {
    const Tensor data = x.detach();
    const bool narrow = data.scalar_type() != at::kDouble && data.scalar_type() != at::kFloat;
    return narrow && options_.fp32_power ? data.to(at::kFloat) : data;
  }

  /// gamma / sigma as one number without dimensions, which leaves the type of what it multiplies.
  Tensor scale() const {
    const Singular now = training() ? stored() : evaluated();
    const Tensor sigma = SpectralNorm::apply(weight_, now.sigma, now.u, now.v);
    return (gamma_ / sigma.clamp_min(kSmallest)).squeeze(0);
  }

  /// The vectors of the last refresh; a weight that has changed since gets the sigma that they
  /// give.
  Singular stored() const {
    if (refreshed_ == Stamp(weight_)) return {sigma_, u_, v_};
    const FullPrecision guard;
    const Tensor u = wide(u_), v = wide(v_);
    return {at::dot(v, at::mv(wide(weight_), u)).view({1}), u, v};
  }

  /// The iteration of an evaluation, done again only when the weight or u has changed.
  const Singular& evaluated() const {
    const std::pair<Stamp, Stamp> now{Stamp(weight_), Stamp(u_)};
    if (!evaluated_.sigma.defined() || evaluated_for_ != now) {
      evaluated_ = power_iteration(wide(weight_), wide(u_), options_.n_iter);
      evaluated_for_ = now;
    }
    return evaluated_;
  }

  SigmaOptions options_;
  bool reached_;
  Tensor weight_, bias_, gamma_;
  Tensor u_, v_, sigma_, effective_;
  Stamp refreshed_;
  mutable Singular evaluated_;
  mutable std::pair<Stamp, Stamp> evaluated_for_;
};

const Register<Linear, SigmaReparam, SigmaOptions> sigma_reparam{
    "sigma_reparam", "a matrix whose largest singular value is one trained number",
    cite("2303.06296"), specified_by("sigma_reparam")};

}  // namespace
}  // namespace formwork

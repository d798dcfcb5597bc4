#include <c10/core/GradMode.h>

#include "kernels/rms_norm.h"
#include "kernels/rows.h"
#include "methods/norm/norm.h"
#include "methods/norm/running_scale.h"

namespace formwork {
namespace {

struct PowerNormOptions {
  std::string variant = "released";
  int64_t group_num = 1;
  int64_t warmup_iters = 10000;
  std::optional<double> warmup_fraction;
  double alpha_fwd = 0.9;
  double alpha_bkw = 0.9;
  double eps = 1e-5;
  void describe(OptionSet& o) {
    o.add("variant", variant,
          "released: the authors' program, which gave the numbers (group scaling, warm-up); paper: "
          "Algorithms 1 and 2 (neither)",
          one_of({"released", "paper"}));
    o.add("group_num", group_num,
          "released: groups of channels that are brought to root mean square 1 token by token "
          "first; the authors' models take the number of heads",
          at_least(1));
    o.add("warmup_iters", warmup_iters,
          "released: passes with the batch's own statistics; the authors take the learning rate's "
          "warm-up",
          at_least(0));
    o.add("warmup_fraction", warmup_fraction,
          "released: that warm-up as a part of the training's budget instead", between(0, 1));
    o.add("alpha_fwd", alpha_fwd, "part of the old running mean square that a pass keeps",
          above(0));
    o.add("alpha_bkw", alpha_bkw, "the same of the running gradient statistic", above(0));
    o.add("eps", eps, "added to mean squares", above(0));
    o.require(
        "alpha_fwd", [this] { return alpha_fwd < 1; }, "valid: below 1");
    o.require(
        "alpha_bkw", [this] { return alpha_bkw < 1; }, "valid: below 1");
  }
};

/// y = x / sqrt(phi + eps) · w + b, phi [D] a running mean over batches of the mean square over all
/// valid tokens; no mean is subtracted. Released form: each group of channels of a token is first
/// divided by its root mean square, and until the warm-up ends the present batch's mean square s
/// stands for phi. Backward, with z = x / sqrt(phi + eps) and g = dy · w: u = g - (1 - a) e z with
/// the running e [D] in place of the batch's correlation, dx = u / sqrt(s + eps) (released, even
/// where the forward used phi) or u / sqrt(phi + eps) (paper); e grows by the mean of u z. The
/// paper's nu is (1 - a) e, and its update rule is this one.
/// Padded tokens count in e, not in s. In a causal model a training pass of the warm-up sees the
/// statistics of later tokens; inference does not. ema_gz holds e: where it drifts far from 0, a
/// larger alpha_bkw helps. Shen et al. 2020, arXiv 2003.07845.
class PowerNorm final : public Norm {
 public:
  PowerNorm(const PowerNormOptions& options, const NormSite& site)
      : options_(options),
        released_(options.variant == "released"),
        weight_(add_parameter("weight", at::ones({site.width}), Role::norm)),
        bias_(add_parameter("bias", at::zeros({site.width}), Role::bias)),
        running_phi_(add_buffer("running_phi", at::ones({site.width}))),
        ema_gz_(add_buffer("ema_gz", at::zeros({site.width}))),
        iters_(add_buffer("iters", at::zeros({1}, at::kLong))) {
    check(!released_ || site.width % options.group_num == 0, "norm.power_norm.group_num", "found ",
          options.group_num, ", which does not divide the width ", site.width,
          "; valid: a divisor of it");
  }
  static Traits traits(const PowerNormOptions&) {
    return {.per_token = false, .exact_gradient = false};
  }

  void before_step(const Elapsed& elapsed) override { fraction_ = elapsed.fraction; }
  bool steady() const override { return false; }

  Tensor forward(const Tensor& x, const Tensor& valid) override {
    if (training()) return train(x, valid);
    const Tensor scaled = released_ ? in_groups(x) : x;
    const Affine all = scale_of(running_phi_);
    return at::addcmul(all.shift, scaled, all.scale).to(x.scalar_type());
  }
  Tensor gain() const override { return weight_; }
  std::optional<Affine> folded() const override {
    if (released_) return std::nullopt;  // the groups' scale needs x
    return scale_of(running_phi_);
  }

 private:
  /// What the backward pass needs of the forward pass, all [D].
  struct Statistics {
    Tensor inverse, gradient_inverse;  // 1 / root of the forward, of the backward
    Tensor all_squares;                // mean square over all tokens, padding included
    Tensor weight;
  };

  Tensor in_groups(const Tensor& x) const {
    const int64_t groups = options_.group_num;
    return rms_norm(x.unflatten(-1, {groups, x.size(-1) / groups}), {}, options_.eps).flatten(-2);
  }
  Affine scale_of(const Tensor& mean_square) const {
    return {weight_ * at::rsqrt(mean_square + options_.eps), bias_};
  }
  /// Whether iteration t still belongs to the warm-up, its last one counting as `last`.
  bool warming(int64_t t, bool last) const {
    if (!released_) return false;
    if (options_.warmup_fraction) return fraction_ < *options_.warmup_fraction;
    return t < options_.warmup_iters || (last && t == options_.warmup_iters);
  }

  Tensor train(const Tensor& given, const Tensor& valid) {
    // One pass scales groups and measures; elsewhere than on the CPU one after the other.
    const bool together = released_ && given.device().is_cpu() && given.numel() > 0 &&
                          weight_.scalar_type() == accumulator_type(given);
    const Tensor x = together ? given.contiguous() : released_ ? in_groups(given) : given;
    GroupScale groups{options_.group_num, options_.eps, {}};
    const auto squares = [&](const Tensor& mask) {
      const Tensor values = x.detach();
      return together ? mean_square(values, mask, "norm.power_norm", groups)
                      : mean_square(values, mask, "norm.power_norm");
    };
    Statistics now;
    {
      const c10::NoGradGuard no_grad;
      now.all_squares = squares({});
      now.weight = weight_.detach().to(now.all_squares.scalar_type());
      measure(valid.defined() ? squares(valid) : now.all_squares, now);
    }
    const Tensor ema = ema_gz_;
    const double keep = 1 - options_.alpha_bkw;
    const auto rule = [=](const Tensor& mean_product) {
      const Tensor correction = keep * ema.to(mean_product.scalar_type());
      const Tensor mean_uz = now.weight * now.inverse * mean_product -
                             correction * now.all_squares * now.inverse.square();
      const ScaleGradient by{now.weight * now.gradient_inverse,
                             -correction * now.inverse * now.gradient_inverse, now.inverse};
      Tensor(ema).add_(mean_uz);
      return by;
    };
    return scale_by_rule(x, weight_, bias_, now.inverse, rule, groups);
  }

  /// Takes a batch's mean square s into phi and says what the pass is scaled by.
  void measure(const Tensor& s, Statistics& now) {
    iters_.add_(1);
    const auto t = iters_.item<int64_t>();
    const Tensor phi = running_phi_.to(s.scalar_type());
    now.inverse = at::rsqrt((warming(t, true) ? s : phi) + options_.eps);
    now.gradient_inverse = released_ ? at::rsqrt(s + options_.eps) : now.inverse;
    const auto count = static_cast<double>(t);
    const Tensor before = warming(t, false) ? phi * ((count - 1) / count) + s / count : phi;
    running_phi_.copy_(options_.alpha_fwd * before + (1 - options_.alpha_fwd) * s);
  }

  PowerNormOptions options_;
  bool released_;
  double fraction_ = 0.0;
  Tensor weight_, bias_, running_phi_, ema_gz_, iters_;
};

const Register<Norm, PowerNorm, PowerNormOptions> power_norm{
    "power_norm", "running mean square 1 for every channel, with a running backward correction",
    cite("2003.07845"), specified_by("power_norm")};

}  // namespace
}  // namespace formwork

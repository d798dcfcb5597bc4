#include <torch/csrc/autograd/custom_function.h>

#include "kernels/rows.h"
#include "kernels/scaled_tanh.h"
#include "methods/norm/norm.h"

namespace formwork {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// weight · tanh(alpha x) + bias in one pass each way.
struct ScaledTanh : torch::autograd::Function<ScaledTanh> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& alpha,
                        const Tensor& weight, const Tensor& bias) {
    const Tensor rows = x.contiguous();
    const cpu::ScaledTanhForward result =
        cpu::scaled_tanh_forward(rows, alpha.item<double>(), weight, bias);
    context->save_for_backward({rows, alpha, weight, result.squashed});
    return result.y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &alpha = saved[1], &weight = saved[2];
    const Tensor dy = gradients[0].to(x.scalar_type()).contiguous();
    if (at::GradMode::is_enabled()) return differentiable(dy, x, alpha, weight);
    const cpu::ScaledTanhBackward by =
        cpu::scaled_tanh_backward(dy, x, saved[3], alpha.item<double>(), weight);
    return {by.x, by.alpha.sum().reshape({1}), by.weight, by.bias};
  }

  /// The same by plain operators, for those who differentiate it again.
  static variable_list differentiable(const Tensor& dy, const Tensor& x, const Tensor& alpha,
                                      const Tensor& weight) {
    const Tensor squashed = at::tanh(x * alpha);
    const Tensor inner = dy * (1 - squashed * squashed) * weight;
    const auto over_tokens = [&](const Tensor& all) {
      return all.reshape({-1, x.size(-1)}).sum(0);
    };
    return {(inner * alpha).to(x.scalar_type()), (inner * x).sum().reshape({1}),
            over_tokens(dy * squashed), over_tokens(dy)};
  }
};

struct DynamicTanhOptions {
  double alpha_init = 0.5;
  bool affine = true;
  bool bias = true;
  void describe(OptionSet& o) {
    o.add("alpha_init", alpha_init, "the trained slope at the start", above(0));
    o.add("affine", affine, "scale and shift the result by trained vectors");
    o.add("bias", bias, "with affine: also shift");
  }
};

/// w · tanh(a x) + b with one trained slope a: no statistics at all.
/// Zhu et al. 2025, arXiv 2503.10622.
class DynamicTanh final : public Norm {
 public:
  DynamicTanh(const DynamicTanhOptions& options, const NormSite& site)
      : alpha_(add_parameter("alpha", at::full({1}, options.alpha_init), Role::norm)) {
    if (!options.affine) return;
    weight_ = add_parameter("weight", at::ones({site.width}), Role::norm);
    if (options.bias) bias_ = add_parameter("bias", at::zeros({site.width}), Role::bias);
  }
  static Traits traits(const DynamicTanhOptions&) { return {.normalises = false}; }

  Tensor forward(const Tensor& x, const Tensor&) override {
    if (fused(x)) return ScaledTanh::apply(x, alpha_, weight_, bias_);
    const Tensor squashed = at::tanh(x * alpha_);
    Tensor out = squashed;
    if (bias_.defined())
      out = at::addcmul(bias_, squashed, weight_);
    else if (weight_.defined())
      out = squashed * weight_;
    return out.to(x.scalar_type());
  }
  Tensor gain() const override { return weight_; }

 private:
  bool fused(const Tensor& x) const {
    return bias_.defined() && x.device().is_cpu() && x.size(-1) > 0 &&
           alpha_.scalar_type() == accumulator_type(x);
  }

  Tensor alpha_, weight_, bias_;
};

const Register<Norm, DynamicTanh, DynamicTanhOptions> dynamic_tanh{
    "dynamic_tanh", "a trained tanh in place of statistics", cite("2503.10622"),
    specified_by("norm_baselines")};

}  // namespace
}  // namespace formwork

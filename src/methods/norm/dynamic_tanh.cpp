#include "methods/norm/norm.h"

namespace formwork {
namespace {

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
  Tensor alpha_, weight_, bias_;
};

const Register<Norm, DynamicTanh, DynamicTanhOptions> dynamic_tanh{
    "dynamic_tanh", "a trained tanh in place of statistics", cite("2503.10622"),
    specified_by("norm_baselines")};

}  // namespace
}  // namespace formwork

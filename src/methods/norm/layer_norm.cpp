#include "kernels/layer_norm.h"
#include "methods/norm/norm.h"

namespace formwork {
namespace {

struct LayerNormOptions {
  double eps = 1e-5;
  bool affine = true;
  bool bias = true;
  void describe(OptionSet& o) {
    o.add("eps", eps, "added to the variance", above(0));
    o.add("affine", affine, "scale and shift the result by trained vectors");
    o.add("bias", bias, "with affine: also shift");
  }
};

/// (x - mean) / sqrt(variance + eps) · w + b over the last dimension, biased variance.
/// Ba et al. 2016, arXiv 1607.06450.
class LayerNorm final : public Norm {
 public:
  LayerNorm(const LayerNormOptions& options, const NormSite& site)
      : eps_(options.eps), width_(site.width) {
    if (!options.affine) return;
    weight_ = add_parameter("weight", at::ones({site.width}), Role::norm);
    if (options.bias) bias_ = add_parameter("bias", at::zeros({site.width}), Role::bias);
  }
  Tensor forward(const Tensor& x, const Tensor&) override {
    return at::layer_norm(x, {width_}, weight_, bias_, eps_);
  }
  AddedNorm add(const Tensor& x, const Tensor& branch, const Tensor&) override {
    return add_layer_norm(x, branch, weight_, bias_, eps_);
  }
  Tensor gain() const override { return weight_; }
  std::optional<LayerNormParts> layer_norm_parts() const override {
    return LayerNormParts{eps_, weight_, bias_};
  }

 private:
  double eps_;
  int64_t width_;
  Tensor weight_, bias_;
};

const Register<Norm, LayerNorm, LayerNormOptions> layer_norm{
    "layer_norm", "mean 0 and variance 1 for every token", cite("1607.06450"),
    specified_by("norm_baselines")};

}  // namespace
}  // namespace formwork

#include "methods/norm/batch_scale.h"
#include "methods/norm/norm.h"

namespace formwork {
namespace {

struct BatchNormOptions {
  double eps = 1e-5;
  double momentum = 0.1;
  bool affine = true;
  bool bias = true;
  void describe(OptionSet& o) {
    o.add("eps", eps, "added to the variance", above(0));
    o.add("momentum", momentum, "part of the present batch in the running statistics",
          between(0, 1));
    o.add("affine", affine, "scale and shift the result by trained vectors");
    o.add("bias", bias, "with affine: also shift");
  }
};

/// Mean 0 and variance 1 for every channel over all valid tokens of the batch while training, by
/// running statistics (unbiased variance) otherwise; padded outputs are 0.
/// Ioffe, Szegedy 2015, arXiv 1502.03167.
class BatchNorm final : public Norm {
 public:
  BatchNorm(const BatchNormOptions& options, const NormSite& site)
      : options_(options),
        mean_(add_buffer("running_mean", at::zeros({site.width}))),
        variance_(add_buffer("running_var", at::ones({site.width}))) {
    if (!options.affine) return;
    weight_ = add_parameter("weight", at::ones({site.width}), Role::norm);
    if (options.bias) bias_ = add_parameter("bias", at::zeros({site.width}), Role::bias);
  }
  static Traits traits(const BatchNormOptions&) { return {.per_token = false}; }

  bool steady() const override { return false; }  // counts the tokens
  Tensor forward(const Tensor& x, const Tensor& valid) override {
    if (training()) return over_batch(x, valid);
    const Tensor tokens = x.reshape({-1, x.size(-1)});
    const Tensor normed = at::batch_norm(tokens, weight_, bias_, mean_, variance_, false,
                                         options_.momentum, options_.eps, /*cudnn_enabled=*/false)
                              .view(x.sizes());
    return valid.defined() ? normed.masked_fill(valid.unsqueeze(-1).logical_not(), 0) : normed;
  }
  Tensor gain() const override { return weight_; }
  std::optional<Affine> folded() const override {
    const Tensor inverse = at::rsqrt(variance_ + options_.eps);
    const Tensor scale = weight_.defined() ? inverse * weight_ : inverse;
    const Tensor shift = -mean_ * scale;
    return Affine{scale, bias_.defined() ? shift + bias_ : shift};
  }

 private:
  /// With the statistics of the batch that all processes hold together.
  Tensor over_batch(const Tensor& x, const Tensor& valid) {
    BatchScale parts{
        weight_,          bias_, at::zeros({1}, mean_.options()), mean_, variance_, options_.eps,
        options_.momentum};
    if (!weight_.defined()) parts.weight = at::ones_like(mean_);
    if (!bias_.defined()) parts.bias = at::zeros_like(mean_);
    return batch_scale(x, valid, parts, "norm.batch_norm");
  }

  BatchNormOptions options_;
  Tensor mean_, variance_, weight_, bias_;
};

const Register<Norm, BatchNorm, BatchNormOptions> batch_norm{
    "batch_norm", "mean 0 and variance 1 for every channel over the batch", cite("1502.03167"),
    specified_by("norm_baselines")};

}  // namespace
}  // namespace formwork

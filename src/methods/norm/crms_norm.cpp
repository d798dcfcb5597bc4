#include "kernels/rms_norm.h"
#include "methods/norm/norm.h"

namespace formwork {
namespace {

struct CrmsNormOptions {
  double eps = 1e-5;
  bool affine = true;
  bool bias = false;
  void describe(OptionSet& o) {
    o.add("eps", eps, "added to the mean square", above(0));
    o.add("affine", affine, "scale the result by a trained vector; false in converted models");
    o.add("bias", bias, "with affine: also shift it by a trained vector");
  }
};

/// Compressed RMS norm: the width W of the model stands for W + 1 channels with mean 0, the last of
/// which is left out because it is minus the sum s of the others:
///   y = x / sqrt((sum(x²) + s²) / (W + 1) + eps) · w + b.
/// Of W + 1 centred channels it gives the first W that layer_norm (or rms_norm) gives.
/// Jiang et al. 2023, arXiv 2305.14858.
class CrmsNorm final : public Norm {
 public:
  CrmsNorm(const CrmsNormOptions& options, const NormSite& site) : eps_(options.eps) {
    if (!options.affine) return;
    weight_ = add_parameter("weight", at::ones({site.width}), Role::norm);
    if (options.bias) bias_ = add_parameter("bias", at::zeros({site.width}), Role::bias);
  }
  Tensor forward(const Tensor& x, const Tensor&) override {
    return shifted(crms_norm(x, weight_, eps_));
  }
  AddedNorm add(const Tensor& x, const Tensor& branch, const Tensor&) override {
    const AddedNorm result = add_crms_norm(x, branch, weight_, eps_);
    return {result.sum, shifted(result.y)};
  }
  Tensor gain() const override { return weight_; }

 private:
  Tensor shifted(const Tensor& y) const {
    return bias_.defined() ? y + bias_.to(y.scalar_type()) : y;
  }

  double eps_;
  Tensor weight_, bias_;
};

const Register<Norm, CrmsNorm, CrmsNormOptions> crms_norm_method{
    "crms_norm", "root mean square 1 for tokens with mean 0, one channel left out",
    cite("2305.14858"), specified_by("pre_rmsnorm")};

}  // namespace
}  // namespace formwork

#include "kernels/rms_norm.h"
#include "methods/norm/norm.h"

namespace formwork {
namespace {

struct RmsNormOptions {
  double eps = 1e-6;
  bool affine = true;
  bool bias = false;
  int64_t weight_offset = 0;
  void describe(OptionSet& o) {
    o.add("eps", eps, "added to the mean square", above(0));
    o.add("affine", affine, "scale the result by a trained vector");
    o.add("bias", bias, "with affine: also shift it, as a converted layer norm does");
    o.add("weight_offset", weight_offset,
          "what is added to the trained vector: 0, or 1 as Gemma does", between(0, 1));
  }
};

/// x / sqrt(mean(x²) + eps) · (offset + w) + b, w = 1 - offset at the start, b only where asked
/// for. Zhang, Sennrich 2019, arXiv 1910.07467.
class RmsNorm final : public Norm {
 public:
  RmsNorm(const RmsNormOptions& options, const NormSite& site)
      : eps_(options.eps), offset_(options.weight_offset) {
    if (!options.affine) return;
    const Tensor start = at::full({site.width}, 1.0 - static_cast<double>(offset_));
    weight_ = add_parameter("weight", start, Role::norm);
    if (options.bias) bias_ = add_parameter("bias", at::zeros({site.width}), Role::bias);
  }
  Tensor forward(const Tensor& x, const Tensor&) override {
    return shifted(rms_norm(x, gain(), eps_));
  }
  AddedNorm add(const Tensor& x, const Tensor& branch, const Tensor&) override {
    const AddedNorm result = add_rms_norm(x, branch, gain(), eps_);
    return {result.sum, shifted(result.y)};
  }
  Tensor gain() const override {
    return weight_.defined() && offset_ != 0 ? weight_ + offset_ : weight_;
  }

 private:
  Tensor shifted(const Tensor& y) const {
    return bias_.defined() ? y + bias_.to(y.scalar_type()) : y;
  }

  double eps_;
  int64_t offset_;
  Tensor weight_, bias_;
};

const Register<Norm, RmsNorm, RmsNormOptions> rms_norm_method{
    "rms_norm", "root mean square 1 for every token", cite("1910.07467"),
    specified_by("norm_baselines")};

}  // namespace
}  // namespace formwork

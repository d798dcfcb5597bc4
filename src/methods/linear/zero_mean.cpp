#include "kernels/linear_map.h"
#include "methods/linear/linear.h"

namespace formwork {
namespace {

/// Linear maps that write to the residual stream (roles output, down and embedding) give vectors of
/// mean 0: y = x Wᵀ + b with W - mean over out (W) and b - mean(b) in the place of W and b; the
/// others are plain. With model.centre_embedding and a norm that leaves the mean alone (rms_norm,
/// same eps) it trains exactly as plain maps under layer_norm do.
/// Jiang et al. 2023, arXiv 2305.14858. (The released JAX code subtracts the mean over `in`, which
/// leaves the output's mean where it was.)
class ZeroMean final : public Linear {
 public:
  ZeroMean(const NoOptions&, const LinearSite& site)
      : centred_(site.role == Role::output || site.role == Role::down ||
                 site.role == Role::embedding),
        weight_(add_parameter(
            "weight",
            initial_weight(site.init, site.out, site.in, site.role, site.depth, site.random),
            site.role)) {
    if (site.bias) bias_ = add_parameter("bias", at::zeros({site.out}), Role::bias);
  }

  Tensor forward(const Tensor& x) override { return linear_map(x, weight(), bias()); }
  Tensor weight() const override { return centred_ ? weight_ - weight_.mean(0, true) : weight_; }
  Tensor bias() const override {
    return centred_ && bias_.defined() ? bias_ - bias_.mean() : bias_;
  }

 private:
  bool centred_;
  Tensor weight_;
  Tensor bias_;
};

const Register<Linear, ZeroMean> zero_mean{
    "zero_mean", "maps that write to the residual stream write vectors of mean 0",
    cite("2305.14858"), specified_by("pre_rmsnorm")};

}  // namespace
}  // namespace formwork

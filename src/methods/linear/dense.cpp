#include "kernels/linear_map.h"
#include "methods/linear/linear.h"

namespace formwork {
namespace {

/// y = x Wᵀ + b with a plain matrix W [out, in]; 2·in·out operations a token.
class Dense final : public Linear {
 public:
  Dense(const NoOptions&, const LinearSite& site)
      : weight_(add_parameter(
            "weight",
            initial_weight(site.init, site.out, site.in, site.role, site.depth, site.random),
            site.role)) {
    if (site.bias) bias_ = add_parameter("bias", at::zeros({site.out}), Role::bias);
  }

  Tensor forward(const Tensor& x) override { return linear_map(x, weight_, bias_); }
  Tensor weight() const override { return weight_; }
  Tensor bias() const override { return bias_; }

 private:
  Tensor weight_;
  Tensor bias_;
};

const Register<Linear, Dense> dense{"dense", "a plain weight matrix", cite("no paper"),
                                    specified_by("")};

}  // namespace
}  // namespace formwork

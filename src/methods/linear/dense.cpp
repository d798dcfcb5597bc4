#include "kernels/laid_out_linear.h"
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

  Tensor forward(const Tensor& x) override {
    if (suits_layout(x, laid_out_)) return laid_out_linear(x, laid_out_, bias_);
    return weight_.defined() ? linear_map(x, weight_, bias_) : packed_linear(x, packed_, bias_);
  }
  Tensor activated(const Tensor& x, Activation f) override {
    if (suits_layout(x, laid_out_))
      return activate_in_place(laid_out_linear(x, laid_out_, {}), f, {bias_, {}, {}});
    return weight_.defined() ? linear_map(x, weight_, {bias_, f, {}})
                             : activate(packed_linear(x, packed_, bias_), f);
  }
  Tensor weight() const override { return weight_.defined() ? weight_ : packed_.unpacked(); }
  Tensor bias() const override { return bias_; }

  bool pack(PackedForm form) override {
    if (!weight_.defined() || weight_.scalar_type() != at::kFloat || !weight_.is_cpu())
      return false;
    packed_ = pack_weight(weight_.detach(), form);
    laid_out_ = Tensor();
    drop_parameter("weight");
    weight_ = Tensor();
    return true;
  }
  void lay_out() override {
    if (weight_.defined()) laid_out_ = lay_out_weight(weight_);
  }
  int64_t weight_bytes() const override {
    return weight_.defined() ? static_cast<int64_t>(weight_.nbytes()) : packed_.bytes();
  }

 private:
  Tensor weight_;        // undefined once it is packed
  PackedWeight packed_;  // undefined before
  Tensor laid_out_;      // undefined before lay_out(), and where that serves nothing
  Tensor bias_;
};

const Register<Linear, Dense> dense{"dense", "a plain weight matrix", cite("no paper"),
                                    specified_by("")};

}  // namespace
}  // namespace formwork

#include <ATen/core/grad_mode.h>

#include "methods/constraint/constraint.h"

namespace formwork {
namespace {

struct ValueClippingOptions {
  double max_value = 1.0;
  void describe(OptionSet& set) {
    set.add("max_value", max_value, "largest magnitude of a gradient's number", above(0));
  }
};

/// Every number of every gradient is brought into [-c, c]; this changes the direction.
/// Mikolov 2012.
class ValueClipping final : public Constraint {
 public:
  ValueClipping(const ValueClippingOptions& options, const ConstraintSite&) : options_(options) {}

  void before_step(const std::vector<Parameter>& parameters) override {
    const at::NoGradGuard no_grad;
    for (const Tensor& gradient : gradients_of(parameters))
      gradient.clamp_(-options_.max_value, options_.max_value);
  }

 private:
  ValueClippingOptions options_;
};

const Register<Constraint, ValueClipping, ValueClippingOptions> value_clipping{
    "value_clipping", "every number of a gradient has a limit", cite("Mikolov 2012"),
    specified_by("optimizer_baselines")};

}  // namespace
}  // namespace formwork

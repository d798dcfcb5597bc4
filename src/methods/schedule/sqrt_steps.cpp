#include <cmath>

#include "methods/schedule/schedule.h"

namespace formwork {
namespace {

struct SqrtStepsOptions {
  int64_t every = 512;
  void describe(OptionSet& set) { set.add("every", every, "steps at one rate", at_least(1)); }
};

/// 1/(1 + sqrt(floor(s/every))), as the modula library's examples train with.
class SqrtSteps final : public Schedule {
 public:
  static Traits traits(const SqrtStepsOptions&) {
    return {.constant = false, .needs_total = false};
  }
  SqrtSteps(const SqrtStepsOptions& options, const ScheduleSite&) : options_(options) {}

 private:
  double shape(double step, double) const override {
    return 1.0 / (1.0 + std::sqrt(std::floor(step / static_cast<double>(options_.every))));
  }

  SqrtStepsOptions options_;
};

const Register<Schedule, SqrtSteps, SqrtStepsOptions> sqrt_steps{
    "sqrt_steps", "falls with the inverse square root of the step, in stairs", cite("2405.14813"),
    specified_by("optimizer_baselines")};

}  // namespace
}  // namespace formwork

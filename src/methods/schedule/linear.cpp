#include "methods/schedule/schedule.h"

namespace formwork {
namespace {

struct LinearDecayOptions : WarmupOptions {
  double min_ratio = 0.0;
  void describe(OptionSet& set) {
    WarmupOptions::describe(set);
    set.add("min_ratio", min_ratio, "factor at the last step", between(0, 1));
  }
};

/// s/W, then 1 - (1-m)(s-W)/(T-W).
class LinearDecay final : public Schedule {
 public:
  LinearDecay(const LinearDecayOptions& options, const ScheduleSite&) : options_(options) {}

 private:
  double shape(double step, double total) const override {
    const double warmup = static_cast<double>(options_.warmup);
    if (step < warmup) return warmup_from_zero(step, options_.warmup);
    return 1.0 - (1.0 - options_.min_ratio) * progress(step, warmup, total);
  }

  LinearDecayOptions options_;
};

const Register<Schedule, LinearDecay, LinearDecayOptions> linear{
    "linear", "a straight line down", cite("no paper"), specified_by("optimizer_baselines")};

}  // namespace
}  // namespace formwork

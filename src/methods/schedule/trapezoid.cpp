#include <algorithm>

#include "methods/schedule/schedule.h"

namespace formwork {
namespace {

struct TrapezoidOptions : WarmupOptions {
  double cooldown_fraction = 0.4;
  double min_ratio = 0.1;

  void describe(OptionSet& set) {
    WarmupOptions::describe(set);
    set.add("cooldown_fraction", cooldown_fraction, "share of all steps that the descent takes",
            between(0, 1));
    set.add("min_ratio", min_ratio, "factor at the last step", between(0, 1));
  }
};

/// The speed-runs' form: 1 until s/T = 1-f, then w + (1-w)m with w = (1 - s/T)/f; warm-up
/// (s+1)/W where asked for. Jordan et al. 2024 (modded-nanogpt).
class Trapezoid final : public Schedule {
 public:
  Trapezoid(const TrapezoidOptions& options, const ScheduleSite&) : options_(options) {}

 private:
  double shape(double step, double total) const override {
    const double start = total * (1.0 - options_.cooldown_fraction);
    const double left = options_.cooldown_fraction > 0 ? 1.0 - progress(step, start, total) : 1.0;
    return std::min(warmup_from_one(step, options_.warmup),
                    left + (1.0 - left) * options_.min_ratio);
  }

  TrapezoidOptions options_;
};

const Register<Schedule, Trapezoid, TrapezoidOptions> trapezoid{
    "trapezoid", "constant, then a straight line down", cite("modded-nanogpt, Jordan et al. 2024"),
    specified_by("optimizer_baselines")};

}  // namespace
}  // namespace formwork

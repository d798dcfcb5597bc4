#include "methods/schedule/schedule.h"

namespace formwork {
namespace {

struct CosineOptions : WarmupOptions {
  double min_ratio = 0.0;
  void describe(OptionSet& set) {
    WarmupOptions::describe(set);
    set.add("min_ratio", min_ratio, "factor at the last step", between(0, 1));
  }
};

/// s/W, then m + (1-m)/2 · (1 + cos π(s-W)/(T-W)).
class Cosine final : public Schedule {
 public:
  Cosine(const CosineOptions& options, const ScheduleSite&) : options_(options) {}

 private:
  double shape(double step, double total) const override {
    const double warmup = static_cast<double>(options_.warmup);
    if (step < warmup) return warmup_from_zero(step, options_.warmup);
    return cosine_descent(progress(step, warmup, total), options_.min_ratio);
  }

  CosineOptions options_;
};

const Register<Schedule, Cosine, CosineOptions> cosine{
    "cosine", "half a cosine wave down", cite("1608.03983"), specified_by("optimizer_baselines")};

}  // namespace
}  // namespace formwork

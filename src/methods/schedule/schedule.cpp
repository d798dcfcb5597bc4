#include "methods/schedule/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace formwork {

double Schedule::factor(int64_t step, int64_t total) const {
  const int64_t within = total > 0 ? std::min(step, total) : step;
  return shape(static_cast<double>(std::max<int64_t>(within, 0)), static_cast<double>(total));
}

void WarmupOptions::describe(OptionSet& set) {
  set.add("warmup", warmup, "steps over which the learning rate rises", at_least(0));
}

double warmup_from_zero(double step, int64_t warmup) {
  return warmup > 0 ? std::min(1.0, step / static_cast<double>(warmup)) : 1.0;
}

double warmup_from_one(double step, int64_t warmup) {
  return warmup > 0 ? std::min(1.0, (step + 1.0) / static_cast<double>(warmup)) : 1.0;
}

double progress(double step, double from, double to) {
  return to > from ? std::clamp((step - from) / (to - from), 0.0, 1.0) : 1.0;
}

double cosine_descent(double x, double low) {
  return low + (1.0 - low) * 0.5 * (1.0 + std::cos(std::numbers::pi * x));
}

}  // namespace formwork

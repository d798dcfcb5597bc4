#include <algorithm>
#include <cmath>

#include "methods/schedule/schedule.h"

namespace formwork {
namespace {

/// min((s+1)/W, sqrt(W/(s+1))), which is 1 at s+1 = W; W = 0 counts as 1. The rule of Vaswani et
/// al. 2017, arXiv 1706.03762, brought to peak 1.
class InverseSqrt final : public Schedule {
 public:
  static Traits traits(const WarmupOptions&) { return {.constant = false, .needs_total = false}; }
  InverseSqrt(const WarmupOptions& options, const ScheduleSite&)
      : warmup_(static_cast<double>(std::max<int64_t>(options.warmup, 1))) {}

 private:
  double shape(double step, double) const override {
    return std::min((step + 1.0) / warmup_, std::sqrt(warmup_ / (step + 1.0)));
  }

  double warmup_;
};

const Register<Schedule, InverseSqrt, WarmupOptions> rsqrt{
    "rsqrt", "falls with the inverse square root of the step", cite("1706.03762"),
    specified_by("optimizer_baselines")};

}  // namespace
}  // namespace formwork

#include "methods/schedule/schedule.h"

namespace formwork {
namespace {

/// min(1, (s+1)/W).
class Constant final : public Schedule {
 public:
  static Traits traits(const WarmupOptions&) { return {.constant = true, .needs_total = false}; }
  Constant(const WarmupOptions& options, const ScheduleSite&) : options_(options) {}

 private:
  double shape(double step, double) const override {
    return warmup_from_one(step, options_.warmup);
  }

  WarmupOptions options_;
};

const Register<Schedule, Constant, WarmupOptions> constant{
    "constant", "the same rate throughout", cite("no paper"), specified_by("optimizer_baselines")};

}  // namespace
}  // namespace formwork

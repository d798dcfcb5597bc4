#include <algorithm>
#include <cmath>

#include "methods/schedule/schedule.h"

namespace formwork {
namespace {

struct LraOptions : WarmupOptions {
  std::string form = "rsqrt";
  int64_t cycle = 35000;

  LraOptions() { warmup = 1000; }
  void describe(OptionSet& set) {
    WarmupOptions::describe(set);
    set.add("form", form, "rsqrt or cosine", one_of({"rsqrt", "cosine"}));
    set.add("cycle", cycle, "steps of one cosine descent, which then starts anew (form cosine)",
            at_least(1));
  }
};

/// The Long Range Arena's rule: min(1, s/W) times 1/sqrt(max(s, W)), which is not brought to peak
/// 1, or times ½(1 + cos(π frac(max(0, s-W)/cycle))). Tay et al. 2021, arXiv 2011.04006.
class Lra final : public Schedule {
 public:
  static Traits traits(const LraOptions&) { return {.constant = false, .needs_total = false}; }
  Lra(const LraOptions& options, const ScheduleSite&) : options_(options) {}

 private:
  double shape(double step, double) const override {
    const double rise = warmup_from_zero(step, options_.warmup);
    const double warmup = static_cast<double>(options_.warmup);
    if (options_.form == "rsqrt") return rise / std::sqrt(std::max({step, warmup, 1.0}));
    const double turns = std::max(0.0, step - warmup) / static_cast<double>(options_.cycle);
    return rise * cosine_descent(turns - std::floor(turns), 0.0);
  }

  LraOptions options_;
};

const Register<Schedule, Lra, LraOptions> lra{"lra", "the rule of the Long Range Arena",
                                              cite("2011.04006"), specified_by("lra_tasks")};

}  // namespace
}  // namespace formwork

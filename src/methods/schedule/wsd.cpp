#include <algorithm>
#include <cmath>

#include "methods/schedule/schedule.h"

namespace formwork {
namespace {

struct WsdOptions : WarmupOptions {
  int64_t cooldown = 0;
  double cooldown_fraction = 0.2;
  std::string form = "linear";
  double min_ratio = 0.0;

  void describe(OptionSet& set) {
    WarmupOptions::describe(set);
    set.add("cooldown", cooldown, "steps of the descent at the end; 0: cooldown_fraction decides",
            at_least(0));
    set.add("cooldown_fraction", cooldown_fraction, "share of all steps that the descent takes",
            between(0, 1));
    set.add("form", form, "how it goes down: linear, sqrt, exp or cosine",
            one_of({"linear", "sqrt", "exp", "cosine"}));
    set.add("min_ratio", min_ratio, "factor at the last step", between(0, 1));
    set.require(
        "min_ratio", [this] { return form != "exp" || min_ratio > 0; },
        "must be above 0 where form is 'exp'");
  }
};

/// Warm-up, stable, decay: (s+1)/W, 1, then over the last steps, x from 0 to 1: 1-(1-m)x (linear),
/// 1-(1-m)sqrt(x) (sqrt), m^x (exp) or half a cosine. Hu et al. 2024 (MiniCPM), arXiv 2404.06395.
class Wsd final : public Schedule {
 public:
  Wsd(const WsdOptions& options, const ScheduleSite&) : options_(options) {}

 private:
  double shape(double step, double total) const override {
    const double steps = options_.cooldown > 0 ? static_cast<double>(options_.cooldown)
                                               : options_.cooldown_fraction * total;
    const double start = std::max(total - steps, 0.0);
    const double x = steps > 0 ? progress(step, start, total) : 0.0;
    return std::min(warmup_from_one(step, options_.warmup), descent(x));
  }

  double descent(double x) const {
    const double low = options_.min_ratio;
    if (options_.form == "sqrt") return 1.0 - (1.0 - low) * std::sqrt(x);
    if (options_.form == "exp") return std::pow(low, x);
    if (options_.form == "cosine") return cosine_descent(x, low);
    return 1.0 - (1.0 - low) * x;
  }

  WsdOptions options_;
};

const Register<Schedule, Wsd, WsdOptions> wsd{"wsd", "warm-up, stable, decay", cite("2404.06395"),
                                              specified_by("optimizer_baselines")};

}  // namespace
}  // namespace formwork

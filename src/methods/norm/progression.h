// How much of the first of two norms is left while training replaces it by the second.
#pragma once

#include <cstdint>

#include "methods/module.h"

namespace formwork {

/// First norm alone while warming, then a share that falls linearly from `start` to 0. Counted in
/// steps where `total` > 0, else in fractions of the budget.
struct Progression {
  int64_t warm = 0, total = 0;
  double warm_fraction = 0.0, total_fraction = 1.0;
  double start = 1.0;

  /// Whether the second norm takes no part yet; `later` is added to the step.
  bool warming(const Elapsed& elapsed, int64_t later = 0) const {
    return total > 0 ? elapsed.step + later < warm : elapsed.fraction < warm_fraction;
  }
  /// The first norm's share after the warm-up, 0 to `start`.
  double share(const Elapsed& elapsed, int64_t later = 0) const {
    if (total > 0)
      return start * static_cast<double>(left(elapsed.step + later)) / static_cast<double>(total);
    const double gone = (elapsed.fraction - warm_fraction) / total_fraction;
    return gone < 1 ? start * (1 - gone) : 0.0;
  }
  /// Steps until the share is 0, `total` before the first of them.
  int64_t left(int64_t step) const {
    const int64_t done = step > warm ? step - warm : 0;
    return done < total ? total - done : 0;
  }
};

}  // namespace formwork

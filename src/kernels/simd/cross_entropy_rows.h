// Cross-entropy of rows of logits, for every instruction set.
#pragma once

#include <cstdint>

namespace formwork {

struct CrossEntropyRows {
  /// The loss of one row: ln Σ e^l - (1 - smoothing) l[target] - smoothing mean(l) + z_loss
  /// (ln Σ e^l)². With `gradient` the logits become its gradient. NaN where a logit is NaN or
  /// +infinity.
  float (*row)(float* logits, int64_t classes, int64_t target, float smoothing, float z_loss,
               bool gradient);
};

}  // namespace formwork

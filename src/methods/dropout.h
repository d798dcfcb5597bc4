// Dropout as every part of a model applies it.
#pragma once

#include <ATen/ops/dropout.h>

namespace formwork {

/// x with each number zeroed at `rate` and the rest scaled by 1/(1 - rate); x itself outside
/// training and at rate 0, without drawing a number. Srivastava et al. 2014.
inline at::Tensor dropped(const at::Tensor& x, double rate, bool training) {
  return training && rate > 0.0 ? at::dropout(x, rate, true) : x;
}

}  // namespace formwork

// A norm over the channels of all heads together, as attention without a denominator needs it.
#pragma once

#include "methods/norm/norm.h"

namespace formwork {

/// y [B,H,N,K] → [B,H,N,K], each token's H·K channels normed as one vector.
inline Tensor norm_heads(const Tensor& y, Norm& norm, const Tensor& valid) {
  const Tensor joined = norm.forward(y.transpose(1, 2).flatten(2), valid);
  return joined.unflatten(2, {y.size(1), y.size(3)}).transpose(1, 2);
}

}  // namespace formwork

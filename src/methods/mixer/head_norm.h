// Norms of queries, keys and outputs that are already split into heads.
#pragma once

#include "kernels/rms_norm.h"
#include "methods/norm/norm.h"

namespace formwork {

/// x [B,H,N,K] → [B,H,N,K], each head's K channels divided by their root mean square, times gain
/// [K]; x itself without a gain.
inline Tensor norm_each_head(const Tensor& x, const Tensor& gain, double eps) {
  if (!gain.defined()) return x;
  // Heads inside rows, as the projections leave them in memory.
  return rms_norm(x.transpose(1, 2), gain, eps).transpose(1, 2);
}

/// y [B,H,N,K] → [B,H,N,K], each token's H·K channels normed as one vector.
inline Tensor norm_heads(const Tensor& y, Norm& norm, const Tensor& valid) {
  const Tensor joined = norm.forward(y.transpose(1, 2).flatten(2), valid);
  return joined.unflatten(2, {y.size(1), y.size(3)}).transpose(1, 2);
}

}  // namespace formwork

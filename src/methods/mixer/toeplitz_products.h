// Attention without a softmax whose weights are products of features times a factor of the
// distance.
#pragma once

#include <ATen/core/Tensor.h>

namespace formwork {

using at::Tensor;

/// y_i = sum_j c_{j-i} (q_i·k_j) v_j. All tensors float32 or float64, of one type.
struct ToeplitzProducts {
  Tensor q, k;          // [B,H,N,M] features
  Tensor v;             // [B,H,N,V]
  Tensor factors;       // [H,2N-1]: entry N-1+r is c_r, r = key - query
  bool causal = false;  // c_r is read as 0 for r > 0
};

/// [B,H,N,V] by all pairs, a tile of queries at a time: O(N²(M + V)) time, O(N) memory, gradients
/// included.
Tensor toeplitz_products_direct(const ToeplitzProducts& all);

/// [B,H,N,V] by circular convolutions of the M·V columns k_m v, some columns at a time:
/// O(N log N · M V) time. Exact up to rounding, which is absolute: small sums beside large ones
/// lose digits, and a changed token moves the last digits of all others.
Tensor toeplitz_products_fft(const ToeplitzProducts& all);

}  // namespace formwork

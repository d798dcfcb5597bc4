// Attention whose weights are products of features: y_i = sum_j (q_i·k_j) v_j / (n_i + eps) with
// n_i = sum_j q_norm_i·k_norm_j.
#pragma once

#include <ATen/core/Tensor.h>

namespace formwork {

using at::Tensor;

/// Features of queries and keys. Numerator and denominator have their own, since rotary positions
/// turn those of the numerator only; otherwise both are the same tensors.
struct LinearAttention {
  Tensor q, k;            // [B,H,N,K], keys of padded tokens 0
  Tensor q_norm, k_norm;  // [B,H,N,K]
  Tensor v;               // [B,H,N,V]
  double eps = 0.0;
};

/// The sums over the tokens so far.
struct LinearSums {
  Tensor sum;   // [B,H,K,V] of k vᵀ
  Tensor norm;  // [B,H,K] of k_norm
};

/// Sums over all tokens: [B,H,N,V].
Tensor linear_attention(const LinearAttention& all);

/// Sums over j <= i, in chunks of `chunk` tokens: products inside a chunk, sums between them.
/// Memory O(N (K + V + chunk) + N/chunk K V), gradients included. `sums` are those of earlier
/// tokens and become those of all; nullptr = none and not wanted.
Tensor causal_linear_attention(const LinearAttention& all, int64_t chunk, LinearSums* sums);

/// The same for one more token (N = 1), adding to `sums` in place.
Tensor linear_attention_step(const LinearAttention& all, LinearSums& sums);

}  // namespace formwork

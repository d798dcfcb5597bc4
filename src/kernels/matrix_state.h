// Recurrences with a matrix as their state, by chunks: linear attention over the past, with a gate
// that forgets or without.
#pragma once

#include <ATen/core/Tensor.h>

namespace formwork {

using at::Tensor;

/// S_i = exp(g_i) S_{i-1} + k_i v_iᵀ and y_i = S_iᵀ q_i: q, k [B,H,N,K], v [B,H,N,V] → [B,H,N,V].
struct MatrixState {
  Tensor q, k, v;
  Tensor log_gate = {};  // g [B,H,N], at most 0, or undefined: nothing is forgotten
  /// S [B,H,K,V] of the tokens before (undefined: 0), becomes that of all; null: 0, and unwanted.
  Tensor* sum = nullptr;
};

/// In chunks of `chunk` tokens: products inside a chunk, the state between them. Memory
/// O(N (K + V + chunk) + N/chunk K V), gradients included; time in O(N chunk + N/chunk · K V) a
/// head. Any type and device; gradients of all inputs. Katharopoulos et al. 2020 (linear
/// attention), arXiv 2006.16236; Yang et al. 2024 (gates, chunks), arXiv 2312.06635.
Tensor matrix_state_scan(const MatrixState& all, int64_t chunk = 64);

/// The same token by token.
Tensor matrix_state_scan_reference(const MatrixState& all);

}  // namespace formwork

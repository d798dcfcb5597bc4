// Sums of outer products over the tokens so far, with or without a decay: causal linear attention
// (methods/mixer/linear_attention.h, causal_products) and gated matrix states.
#pragma once

#include "kernels/cuda/common.h"

namespace formwork::FORMWORK_CUDA {

/// The widest rows of q, k and v. Above 64 a block takes 116 KB of shared memory.
constexpr int kWidestState = 128;
/// Tokens that are multiplied with each other directly; between chunks there is a state.
constexpr int kScanChunk = 64;

/// S_t = exp(l_t) S_{t-1} + k_t v_tᵀ, y_t = q_t S_t: q, k [B,H,N,K], v [B,H,N,V] → y [B,H,N,V], l
/// the logarithm of a gate, at most 0 (Yang et al. 2024, arXiv 2312.06635). Computed in float32.
struct MatrixScan {
  Element element = Element::float32;
  int batch = 0, heads = 0, tokens = 0, width = 0, value_width = 0;
  Heads q, k, v, y;
  const float* log_gate = nullptr;  // [B,H,N] contiguous, or nullptr = 0: nothing is forgotten
  const float* initial = nullptr;   // S before the first token [B,H,K,V], or nullptr = 0
  float* last = nullptr;            // S after the last token [B,H,K,V], or nullptr = not wanted
  float* room = nullptr;            // matrix_scan_room floats
};
int64_t matrix_scan_room(const MatrixScan& scan);
Status matrix_scan_forward(const MatrixScan& scan, Stream stream);

struct MatrixScanGradients {
  Heads y;  // given: the gradient of y
  Heads q, k, v;
  float* log_gate = nullptr;  // [B,H,N], or nullptr = not wanted
};
/// For scans that start from 0. Sums are in one order.
Status matrix_scan_backward(const MatrixScan& scan, const MatrixScanGradients& gradients,
                            Stream stream);

}  // namespace formwork::FORMWORK_CUDA

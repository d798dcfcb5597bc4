// Softmax attention that never holds all scores: [B,H,Nq,K] with [B,Hkv,Nk,K] by tiles.
#pragma once

#include <ATen/core/Tensor.h>

namespace formwork {

/// What a query may look at, and how scores are scaled.
struct AttentionRule {
  bool causal = false;   // query i sees keys j <= i + Nk - Nq
  double scale = 1.0;    // factor on q·k
  at::Tensor key_valid;  // [B,Nk] bool, false: nobody looks at this key; undefined: all real
};

/// softmax(scale · q kᵀ) v: q [B,H,Nq,K], k [B,Hkv,Nk,K], v [B,Hkv,Nk,V] → [B,H,Nq,V], laid out as
/// [B,Nq,H,V] in memory, so that merging the heads is free. Hkv divides H; a query without a key
/// gives 0. Memory beside the output: O(Nk) a thread, or where heads are wider than 128, nothing is
/// causal and there are at most 2^24 scores, all of them, which is faster. float32 and bfloat16 on
/// the CPU (computed in float32), and on GPUs in a build with CUDA for heads up to 128; anything
/// else by attention_reference. Dao et al. 2022 (arXiv
/// 2205.14135); Rabe, Staats 2021 (arXiv 2112.05682).
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const AttentionRule& rule);

/// The same by plain operators, on any device and of any type.
at::Tensor attention_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const AttentionRule& rule);

namespace cpu {

struct AttentionForward {
  at::Tensor out;      // [B,H,Nq,V]
  at::Tensor log_sum;  // [B,H,Nq] float32: base-2 logarithm of the sum of weights
};
/// The last dimension of q, k and v must be contiguous.
AttentionForward attention_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                   const AttentionRule& rule);

struct AttentionBackward {
  at::Tensor q, k, v;  // gradients
};
/// Sums in an order that does not depend on the number of threads.
AttentionBackward attention_backward(const at::Tensor& gradient, const at::Tensor& q,
                                     const at::Tensor& k, const at::Tensor& v,
                                     const AttentionForward& forward, const AttentionRule& rule);

}  // namespace cpu
}  // namespace formwork

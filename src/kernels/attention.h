// Softmax attention that never holds all scores: [B,H,Nq,K] with [B,Hkv,Nk,K] by tiles.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "kernels/rotate.h"

namespace formwork {

/// What a query may look at, how scores are scaled and what is added to them. Query i stands at
/// place i + Nk - Nq among the keys, so that the last query and the last key meet.
struct AttentionRule {
  bool causal = false;     // a query sees no key behind its place
  double scale = 1.0;      // factor on q·k
  at::Tensor key_valid{};  // [B,Nk] bool, false: nobody looks at this key; undefined: all real
  std::optional<int64_t> back{}, ahead{};  // most keys before and behind its place that it sees
  at::Tensor bias{};                       // [B|1,H|1,Nq,Nk], added to the scores
  /// [H|1,Nq+Nk-1]: number j - i + Nq - 1 is added to score (i, j).
  at::Tensor offset_bias{};
  /// [H|1,⌈Nq/block⌉,⌈Nk/block⌉] bool: key j is closed to query i where (i/block, j/block) is
  /// false.
  at::Tensor open_blocks{};
  int64_t block = 64;
  /// [Nk,d/2] or [B,1,Nk,d/2]: queries and keys are turned as rotate_pairs does, each by the row of
  /// its place; needs Nq <= Nk. The tables have no gradients.
  at::Tensor cosine{}, sine{};
  Pairing pairing = Pairing::half;
};

/// softmax(scale · q kᵀ + biases) v: q [B,H,Nq,K], k [B,Hkv,Nk,K], v [B,Hkv,Nk,V] → [B,H,Nq,V],
/// laid out as [B,Nq,H,V] in memory, so that merging the heads is free. Hkv divides H; a query
/// without a key gives 0. Memory beside the output: O(Nk) a thread, or where heads are wider than
/// 128, nothing is causal and there are at most 2^24 scores, all of them, which is faster. float32
/// and bfloat16 on the CPU (computed in float32, as the biases are), and on GPUs in a build with
/// CUDA for heads up to 128 and rules of causal and key_valid alone; anything else by
/// attention_reference. The biases have gradients too. A rule of wrong shapes or types is an Error.
/// Dao et al. 2022 (arXiv 2205.14135); Rabe, Staats 2021 (arXiv 2112.05682).
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const AttentionRule& rule);

/// Whether so few queries, as in decoding, look at each head of keys that attention reads keys and
/// values once, where they lie, instead of packing them into tiles.
bool attention_streams(const at::Tensor& q, const at::Tensor& k);

struct AttentionResult {
  at::Tensor out;          // [B,H,Nq,V]
  at::Tensor log_sum_exp;  // [B,H,Nq], float32 or float64: ln Σ e^score; -infinity without a key
};
/// The same with the logarithm of the sum that softmax divides by, so that attention to several
/// sets of keys can be put together; differentiable as well.
AttentionResult attention_with_log_sum(const at::Tensor& q, const at::Tensor& k,
                                       const at::Tensor& v, const AttentionRule& rule);

/// The same by plain operators, on any device and of any type.
at::Tensor attention_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const AttentionRule& rule);
AttentionResult attention_with_log_sum_reference(const at::Tensor& q, const at::Tensor& k,
                                                 const at::Tensor& v, const AttentionRule& rule);

namespace cpu {

/// The last dimension of q, k and v must be contiguous, as the whole of each tensor of the rule
/// must be but for `bias`, whose last dimension must; biases are float32.
AttentionResult attention_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const AttentionRule& rule);

/// What a gradient is asked for.
struct AttentionSlopes {
  at::Tensor out;                          // [B,H,Nq,V], its last dimension contiguous
  at::Tensor log_sum_exp;                  // [B,H,Nq] contiguous float32; undefined: none
  bool bias = false, offset_bias = false;  // whether the biases need theirs
};
struct AttentionBackward {
  at::Tensor q, k, v, bias, offset_bias;  // gradients; the biases' undefined where not asked for
};
/// Sums in an order that does not depend on the number of threads.
AttentionBackward attention_backward(const AttentionSlopes& slopes, const at::Tensor& q,
                                     const at::Tensor& k, const at::Tensor& v,
                                     const AttentionResult& forward, const AttentionRule& rule);

}  // namespace cpu
}  // namespace formwork

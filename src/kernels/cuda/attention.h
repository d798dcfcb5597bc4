// Softmax attention by tiles in shared memory, forward and backward; see kernels/attention.h.
#pragma once

#include "kernels/cuda/common.h"

namespace formwork::FORMWORK_CUDA {

/// The widest rows of q, k and v.
constexpr int kWidestHead = 128;

/// One attention: q [B,H,Nq,K], k [B,Hkv,Nk,K], v [B,Hkv,Nk,V] → out [B,H,Nq,V], all of one
/// element. Query i and key j meet where i + Nk - Nq - window < j <= i + Nk - Nq (each bound only
/// where asked for) and the key is valid; weights softmax(scale · q·k + bias). A query without a
/// key gives 0.
struct Attention {
  Element element = Element::float32;
  int batch = 0, heads = 0, kv_heads = 0, queries = 0, keys = 0;  // kv_heads divides heads
  int width = 0, value_width = 0;                                 // up to kWidestHead
  Heads q, k, v, out;
  float* log_sum = nullptr;  // [B,H,Nq] contiguous: base-2 logarithm of the sum of weights
  float scale = 1.0f;
  bool causal = false;
  int window = 0;                      // 0 = all keys
  const uint8_t* key_valid = nullptr;  // [B,Nk] contiguous, 0 = nobody looks; nullptr = all valid
  /// float32 at b · batch + h · head + i · query + j · key, or nullptr. Offsets of key and query
  /// alone (Toeplitz [H, Nq + Nk - 1]) are the strides query = -1 and key = 1, from element Nq - 1.
  const float* bias = nullptr;
  struct {
    int64_t batch = 0, head = 0, query = 0, key = 0;
  } bias_stride;
};

/// Bytes of shared memory that a block of the two passes takes: at most 142 KB, and under 99 KB
/// (what every GPU from compute capability 8.0 on has) but for float32 rows of more than 64.
int64_t attention_shared_memory(const Attention& attention);

/// Fills out and log_sum.
Status attention_forward(const Attention& attention, Stream stream);

/// What the backward pass gives, laid out like q, k and v; the bias gets no gradient.
struct AttentionGradients {
  Heads out;  // given: the gradient of out
  Heads q, k, v;
  float* along = nullptr;  // room for [B,H,Nq]: gradient · out, row by row
};
/// After attention_forward with the same arguments. Sums are in one order: always the same numbers.
Status attention_backward(const Attention& attention, const AttentionGradients& gradients,
                          Stream stream);

}  // namespace formwork::FORMWORK_CUDA

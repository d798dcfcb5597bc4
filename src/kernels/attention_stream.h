// The forward pass of attention for few queries against many keys, as decoding has it.
#pragma once

#include "kernels/attention.h"
#include "kernels/attention_sight.h"

namespace formwork::cpu {

/// Whether so few queries look at each head of keys that packing keys and values would not pay off.
bool streams(const AttentionSizes& sizes);

/// attention_forward for such sizes: keys and values are read once, where they lie, and the threads
/// share them by heads and by fixed lengths.
void attention_stream(const AttentionSizes& sizes, const Sight& sight, const at::Tensor& q,
                      const at::Tensor& k, const at::Tensor& v, double scale,
                      const AttentionResult& result);

}  // namespace formwork::cpu

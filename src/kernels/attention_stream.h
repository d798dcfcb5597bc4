// The forward pass of attention for few queries against many keys, as decoding has it.
#pragma once

#include "kernels/attention.h"
#include "kernels/attention_sight.h"

namespace formwork::cpu {

/// attention_forward where attention_streams says so: keys and values are read once, where they
/// lie, and the threads share them by heads and by fixed lengths.
void attention_stream(const AttentionSizes& sizes, const Sight& sight, const at::Tensor& q,
                      const at::Tensor& k, const at::Tensor& v, double scale,
                      const AttentionResult& result);

}  // namespace formwork::cpu

// A linear map whose weight lies in memory as oneDNN's products want it, for inference.
#pragma once

#include <ATen/core/Tensor.h>

namespace formwork {

using at::Tensor;

/// A copy of a weight [out,in] in the order that oneDNN prefers, opaque to all but
/// laid_out_linear(). Undefined where that would serve nothing: without oneDNN, with
/// FORMWORK_MATMUL=mkl, for other types than float32 (and bfloat16 where the processor multiplies
/// it), on other devices, for an empty weight.
Tensor lay_out_weight(const Tensor& weight);

/// Whether x [...,in] of these sizes and type should be multiplied by laid_out_linear() now: many
/// rows, no gradients wanted, no autocast, the weight's type.
bool suits_layout(const Tensor& x, const Tensor& laid_out);

/// x Wᵀ + b as linear_map() computes it but for rounding; no gradients. x [...,in], laid_out from
/// lay_out_weight(), bias [out] or undefined → [...,out].
Tensor laid_out_linear(const Tensor& x, const Tensor& laid_out, const Tensor& bias);

}  // namespace formwork

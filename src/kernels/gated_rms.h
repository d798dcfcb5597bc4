// The root mean square norm whose result passes a gate made of its input.
#pragma once

#include <ATen/core/Tensor.h>

namespace formwork {

/// y = n · scale · sigmoid(gate · x) with n = x / (sqrt(mean(x²)) + eps) over the last dimension;
/// x [..., D], scale and gate [D] → [..., D] of x's type, computed in float32 (float64 for float64
/// x). Zhang, Titov, Sennrich 2021, arXiv 2104.07012.
at::Tensor gated_rms(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& gate,
                     double eps);

/// The same by plain operators, on any device.
at::Tensor gated_rms_reference(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& gate,
                               double eps);

namespace cpu {

struct GatedRmsForward {
  at::Tensor y;            // like x
  at::Tensor root, slope;  // [rows], float32: 1 / (root mean square + eps); a channel x of the row
                           // changes it by -slope · x
};
/// x contiguous, float32, bfloat16 or float16; scale and gate [D], contiguous, float32.
GatedRmsForward gated_rms_forward(const at::Tensor& x, const at::Tensor& scale,
                                  const at::Tensor& gate, double eps);

struct GatedRmsBackward {
  at::Tensor x, scale, gate;
};
/// Sums over tokens are in an order that does not depend on the number of threads.
GatedRmsBackward gated_rms_backward(const at::Tensor& g, const at::Tensor& x,
                                    const GatedRmsForward& forward, const at::Tensor& scale,
                                    const at::Tensor& gate);

}  // namespace cpu
}  // namespace formwork

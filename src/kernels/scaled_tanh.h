// weight · tanh(alpha · x) + bias, one pass forward and one backward. No gradients: the passes are
// for an autograd function.
#pragma once

#include <ATen/core/Tensor.h>

namespace formwork::cpu {

struct ScaledTanhForward {
  at::Tensor y;         // like x
  at::Tensor squashed;  // tanh(alpha · x), of the type computed in
};
/// x [..., D] contiguous on the CPU; weight and bias [D], contiguous, of the type computed in
/// (float64 for float64 x, else float32). Within 5e-7 of the exact value, relatively, in float32.
ScaledTanhForward scaled_tanh_forward(const at::Tensor& x, double alpha, const at::Tensor& weight,
                                      const at::Tensor& bias);

/// The gradients; alpha's is a number for each channel [D], to be added up.
struct ScaledTanhBackward {
  at::Tensor x, alpha, weight, bias;
};
/// g like x. Sums over tokens are in an order that does not depend on the number of threads.
ScaledTanhBackward scaled_tanh_backward(const at::Tensor& g, const at::Tensor& x,
                                        const at::Tensor& squashed, double alpha,
                                        const at::Tensor& weight);

}  // namespace formwork::cpu

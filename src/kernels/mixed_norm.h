// A norm of tokens and an affine map of channels mixed in one pass, as norms that replace one by
// the other need it. No gradients: the passes are for an autograd function.
#pragma once

#include <ATen/core/Tensor.h>

namespace formwork::cpu {

/// y = share · (x − m) · r · weight + x · factor + shift. m and r of a token: mean and 1 /
/// sqrt(variance + eps), or 0 and 1 / sqrt(mean square + eps) where not `centred`. All vectors [D]
/// contiguous, of the type computed in (float64 for float64 x, else float32).
struct MixedNorm {
  double share = 0.0, eps = 0.0;
  bool centred = true;
  at::Tensor weight, factor, shift;
};
struct MixedForward {
  at::Tensor y;              // like x
  at::Tensor mean, inverse;  // m and r, [tokens]
};
/// x contiguous on the CPU.
MixedForward mixed_norm_forward(const at::Tensor& x, const MixedNorm& norm);

/// Sums of a gradient g like y: over tokens [D], and over channels [tokens].
struct MixedSums {
  at::Tensor gradient;                       // Σ g
  at::Tensor product;                        // Σ g · (x − centre)
  at::Tensor normed;                         // Σ g · (x − m) · r
  at::Tensor token_gradient, token_product;  // Σ g · weight, Σ g · weight · (x − m) · r
};
MixedSums mixed_norm_sums(const at::Tensor& g, const at::Tensor& x, const MixedForward& forward,
                          const at::Tensor& weight, const at::Tensor& centre);

/// The gradient of x: that of the token part, and g · factor + x · slope + shift, slope [D].
at::Tensor mixed_norm_backward(const at::Tensor& g, const at::Tensor& x,
                               const MixedForward& forward, const MixedSums& sums,
                               const MixedNorm& norm, const at::Tensor& slope);

}  // namespace formwork::cpu

// Sums over the tokens, channel by channel, and maps with a factor for each channel: what norms
// with statistics of the batch are made of. No gradients: they are for autograd functions.
#pragma once

#include <ATen/core/Tensor.h>

namespace formwork {

/// Sums over tokens [D], in float32 (float64 for float64 x), in an order that does not depend on
/// the number of threads.
struct ChannelSums {
  at::Tensor product;  // of squares, or of gradient · x
  at::Tensor first;    // of x, or of the gradient
};

/// Σ (x − centre)² and Σ (x − centre) over the valid tokens of x [..., D]. `centre` [D] or
/// undefined (0); `valid` bool, a token each, or undefined (all).
ChannelSums channel_moments(const at::Tensor& x, const at::Tensor& centre, const at::Tensor& valid);

/// Σ g · (x − centre) and Σ g, the same way; g like x.
ChannelSums channel_products(const at::Tensor& g, const at::Tensor& x, const at::Tensor& centre,
                             const at::Tensor& valid);

/// x · factor + shift, channel by channel, in the type of x; factor, shift [D], shift may be
/// undefined.
at::Tensor channel_scale(const at::Tensor& x, const at::Tensor& factor, const at::Tensor& shift);

/// g · g_factor + x · x_factor + shift, the same way; g, x of one type and shape.
at::Tensor channel_combine(const at::Tensor& g, const at::Tensor& g_factor, const at::Tensor& x,
                           const at::Tensor& x_factor, const at::Tensor& shift);

/// The same by plain operators, on any device; an undefined g stands for x − centre, an undefined x
/// for 0.
ChannelSums channel_sums_reference(const at::Tensor& g, const at::Tensor& x,
                                   const at::Tensor& centre, const at::Tensor& valid);
at::Tensor channel_combine_reference(const at::Tensor& g, const at::Tensor& g_factor,
                                     const at::Tensor& x, const at::Tensor& x_factor,
                                     const at::Tensor& shift);

namespace cpu {

/// As the references; g and x contiguous, valid contiguous, [D] tensors contiguous of the type
/// computed in.
ChannelSums channel_sums(const at::Tensor& g, const at::Tensor& x, const at::Tensor& centre,
                         const at::Tensor& valid);
at::Tensor channel_combine(const at::Tensor& g, const at::Tensor& g_factor, const at::Tensor& x,
                           const at::Tensor& x_factor, const at::Tensor& shift);

}  // namespace cpu
}  // namespace formwork

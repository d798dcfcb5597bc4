// Groups of a token's channels brought to root mean square 1, together with the sums and maps of
// kernels/channels.h over what comes out, which is never written. No gradients: the passes are for
// an autograd function.
#pragma once

#include <ATen/core/Tensor.h>

namespace formwork::cpu {

/// A token's channels in equal groups, z = x / sqrt(mean of x² over the group + eps).
struct Groups {
  int64_t count = 1;
  double eps = 0.0;
};

/// Sums over the valid tokens [D], and what a group is multiplied with [tokens, groups]; in float32
/// (float64 for float64 x), in an order that does not depend on the number of threads.
struct GroupedSums {
  at::Tensor product;  // Σ z², or Σ g · z
  at::Tensor first;    // Σ z, or Σ g
  at::Tensor roots;
};
/// x [..., D], g like x or undefined (then z stands for it), contiguous on the CPU; `roots` as an
/// earlier call gave them, or undefined; `valid` bool, a token each, contiguous or undefined (all;
/// without roots it must be).
GroupedSums grouped_sums(const at::Tensor& g, const at::Tensor& x, const at::Tensor& roots,
                         const at::Tensor& valid, const Groups& groups);

/// z · factor + shift, both [D] contiguous of the type computed in.
at::Tensor grouped_scale(const at::Tensor& x, const at::Tensor& roots, const at::Tensor& factor,
                         const at::Tensor& shift);

/// The gradient of x where that of z is g · g_factor + z · z_factor.
at::Tensor grouped_gradient(const at::Tensor& g, const at::Tensor& x, const at::Tensor& roots,
                            const at::Tensor& g_factor, const at::Tensor& z_factor);

}  // namespace formwork::cpu

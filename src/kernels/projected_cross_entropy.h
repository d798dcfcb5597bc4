// Cross-entropy together with the map to the logits, which are never in memory all at once.
#pragma once

#include <ATen/core/Tensor.h>

namespace formwork {

using at::Tensor;

struct CrossEntropyRule {
  double smoothing = 0.0;  // e: the part of a target that all V classes share equally
  double z_loss = 0.0;  // factor on the square of the logits' log-sum-exp (Chowdhery et al. 2022)
};

/// The sum over targets t >= 0 of lse - (1-e) l_t - e mean(l) + z lse², where l = x Wᵀ + b are the
/// logits of a token and lse = log sum exp l. x [...,D], weight [V,D], bias [V] or undefined,
/// target
/// [...] int64, negative = not counted → a scalar in float32 or wider. Some rows at a time: O(V)
/// memory beside the gradients of x, weight and bias, which the forward pass computes and the
/// backward pass scales. Under autocast the products have its type, the rest is float32. Numbers do
/// not depend on the threads. After Hsu et al. 2024, arXiv 2410.10989.
Tensor projected_cross_entropy(const Tensor& x, const Tensor& weight, const Tensor& bias,
                               const Tensor& target, const CrossEntropyRule& rule = {});

/// The same with all logits in memory, by plain operators.
Tensor projected_cross_entropy_reference(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                         const Tensor& target, const CrossEntropyRule& rule = {});

}  // namespace formwork

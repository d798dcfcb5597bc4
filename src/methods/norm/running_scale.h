// What power_norm and unified_norm share: a scale for each channel from the mean squares of the
// batch, and a backward pass by the method's own rule.
#pragma once

#include <functional>
#include <string>

#include "methods/module.h"

namespace formwork {

/// The mean of x² [D] over the valid tokens of all processes together, in float32 (float64 for
/// float64 x). Refuses a batch without a valid token, in the name of `where`.
Tensor mean_square(const Tensor& x, const Tensor& valid, const std::string& where);

/// Groups of a token's channels that are brought to root mean square 1 first: z = x · roots.
struct GroupScale {
  int64_t groups = 1;
  double eps = 0.0;
  Tensor roots;  // [tokens, groups], set by mean_square
};
/// The same of z; measures `scale.roots` where they are not yet. x contiguous, on the CPU.
Tensor mean_square(const Tensor& x, const Tensor& valid, const std::string& where,
                   GroupScale& scale);

/// A gradient by a rule: of x (or z) it is dy · gradient_factor + x · input_factor, of the weight
/// the sum of dy · x · weight_factor. All [D].
struct ScaleGradient {
  Tensor gradient_factor, input_factor, weight_factor;
};
/// Given the mean of dy · x [D] (dy · z with groups) over all tokens, padding included, of all
/// processes. Called once for every backward pass, so it may move statistics.
using GradientRule = std::function<ScaleGradient(const Tensor& mean_product)>;

/// y = x · weight · inverse + bias with gradients by `rule`; that of the bias is the sum of dy.
/// x [..., D] → [..., D] of its type. With `scale` z stands for x, and the gradient goes on through
/// the groups' scale as it is. Cannot be differentiated twice.
Tensor scale_by_rule(const Tensor& x, const Tensor& weight, const Tensor& bias,
                     const Tensor& inverse, GradientRule rule, const GroupScale& scale = {});

}  // namespace formwork

// Batch normalisation over the valid tokens of all processes, with a part of the input added.
#pragma once

#include "methods/module.h"

namespace formwork {

/// The trained and the running tensors of a batch normalisation. [D] each, eta [1].
struct BatchScale {
  Tensor weight, bias, eta;
  Tensor running_mean, running_var;
  double eps = 1e-5, momentum = 0.1;
};

/// weight · (x - mean) / sqrt(variance + eps) + bias + eta · x, mean and biased variance of each
/// channel over the valid tokens that all processes hold together; moves the running statistics
/// (unbiased variance) by `momentum`. Padded tokens become eta · x. x [..., D] → [..., D].
/// Refuses fewer than two valid tokens in the name of `where`.
Tensor batch_scale(const Tensor& x, const Tensor& valid, const BatchScale& parts,
                   const std::string& where);

/// Mean and 1 / sqrt(biased variance + eps) of each channel [D], float32 or wider, and how many
/// valid tokens all processes hold.
struct BatchStatistics {
  Tensor mean, inverse;
  double tokens = 0.0;
};
/// Measures a batch and moves the running statistics.
BatchStatistics take_statistics(const Tensor& x, const Tensor& valid, const BatchScale& parts,
                                const std::string& where);

/// The same map with the running statistics: scale · x + shift, both [D].
Tensor frozen_scale(const BatchScale& parts);
Tensor frozen_shift(const BatchScale& parts);

}  // namespace formwork

// Layer norm fused with the residual addition before it.
#pragma once

#include "kernels/rms_norm.h"

namespace formwork {

/// sum = x + residual and y = (sum − mean) / sqrt(variance + eps) · weight + bias over the last
/// dimension, biased variance, in one pass each way; x, residual [..., D]; weight, bias [D] or
/// undefined. What is normed is the sum as it is stored. Statistics and products in float32
/// (float64 for float64 x). Ba et al. 2016, arXiv 1607.06450.
AddedNorm add_layer_norm(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& weight,
                         const at::Tensor& bias, double eps);

namespace cpu {

struct LayerNormForward {
  at::Tensor y, sum;         // like x
  at::Tensor mean, inverse;  // [rows], of the type computed in
};
/// All contiguous; weight and bias of the type computed in, or undefined.
LayerNormForward add_layer_norm_forward(const at::Tensor& x, const at::Tensor& residual,
                                        const at::Tensor& weight, const at::Tensor& bias,
                                        double eps);

struct LayerNormBackward {
  at::Tensor x, weight, bias;  // gradients; bias's is Σ g, whether there is a bias or not
};
/// `sum_gradient` (may be undefined) is added to that of x. Sums over the rows in an order that
/// does not depend on the number of threads.
LayerNormBackward add_layer_norm_backward(const at::Tensor& gradient,
                                          const at::Tensor& sum_gradient,
                                          const LayerNormForward& forward,
                                          const at::Tensor& weight);

}  // namespace cpu
}  // namespace formwork

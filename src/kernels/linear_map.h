// A linear map and its gradients, each product by the library that is faster for its shape.
#pragma once

#include <ATen/core/Tensor.h>

namespace formwork {

using at::Tensor;

/// x Wᵀ + b: x [...,in], weight [out,in], bias [out] or undefined → [...,out]. What at::linear
/// computes, to the last bit where no product of it is better done by oneDNN (kernels/matmul.h);
/// under autocast, for other types than float32 and on other devices it is at::linear.
Tensor linear_map(const Tensor& x, const Tensor& weight, const Tensor& bias = {});

}  // namespace formwork

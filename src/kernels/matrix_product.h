// Our own products of matrices, for processors that the tensor library's libraries do not use well.
#pragma once

#include <ATen/core/Tensor.h>

namespace formwork::cpu {

/// a bᵀ + bias for float32 a [M,K], b [N,K] on the CPU, of any strides; bias [N] contiguous or
/// undefined. [M,N] contiguous, without a gradient. Every sum is in an order that depends on K
/// alone, so the threads do not change it.
at::Tensor matrix_product(const at::Tensor& a, const at::Tensor& b, const at::Tensor& bias);

}  // namespace formwork::cpu

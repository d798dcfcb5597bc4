// A linear map and its gradients, each product by the library that is faster for its shape.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/activation.h"

namespace formwork {

using at::Tensor;

/// x Wᵀ + b: x [...,in], weight [out,in], bias [out] or undefined → [...,out]. What at::linear
/// computes, to the last bit where no product of it is better done by oneDNN (kernels/matmul.h);
/// for other types than float32 and bfloat16 and on other devices it is at::linear. bfloat16,
/// autocast's too, is multiplied as float32 and rounded where the processor has no instructions for
/// it, which PyTorch emulates many times slower. Up to kFewRows rows without gradients (decoding)
/// read each weight once, by products of our own.
Tensor linear_map(const Tensor& x, const Tensor& weight, const Tensor& bias = {});
constexpr int64_t kFewRows = 4;

/// What follows a product in the same pass over memory: f(y + bias) + residual. bias [out],
/// residual [...,out], either may be undefined.
struct Epilogue {
  Tensor bias;
  Activation function = Activation::identity;
  Tensor residual;
};
/// f(x Wᵀ + bias) + residual. The gradient of what goes into f is formed in one pass too, together
/// with the bias's.
Tensor linear_map(const Tensor& x, const Tensor& weight, const Epilogue& epilogue);

}  // namespace formwork

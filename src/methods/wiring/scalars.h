// Trained scalars that must stay positive or between 0 and 1.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softplus.h>

#include <cmath>

namespace formwork {

/// The raw value whose softplus is `value` > 0.
inline at::Tensor raw_positive(double value) {
  return at::scalar_tensor(value + std::log(-std::expm1(-value)), at::kFloat);
}
/// The raw value whose sigmoid is `value`, 0 < value < 1.
inline at::Tensor raw_share(double value) {
  return at::scalar_tensor(std::log(value) - std::log1p(-value), at::kFloat);
}
/// In float64, which multiplies tensors of any type without changing theirs.
inline at::Tensor as_positive(const at::Tensor& raw) {
  return at::softplus(raw.to(at::kDouble));
}
inline at::Tensor as_share(const at::Tensor& raw) {
  return at::sigmoid(raw.to(at::kDouble));
}

}  // namespace formwork

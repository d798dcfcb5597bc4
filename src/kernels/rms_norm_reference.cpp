#include "kernels/rms_norm.h"

#include <algorithm>
#include <cmath>

namespace formwork {

at::Tensor rms_norm_reference(const at::Tensor& x, const at::Tensor& scale, double eps) {
  const at::Tensor wide = x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
  const at::Tensor normed = wide * at::rsqrt(wide.square().mean(-1, true) + eps);
  return (scale.defined() ? normed * scale : normed).to(x.scalar_type());
}

at::Tensor crms_norm_reference(const at::Tensor& x, const at::Tensor& scale, double eps) {
  const at::Tensor wide = x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
  const at::Tensor squares = wide.square().sum(-1, true) + wide.sum(-1, true).square();
  const at::Tensor normed = wide * at::rsqrt(squares / (x.size(-1) + 1) + eps);
  return (scale.defined() ? normed * scale : normed).to(x.scalar_type());
}

namespace {

/// Its gradient is finite at 0 too.
at::Tensor root_mean_square(const at::Tensor& x) {
  const auto width = static_cast<double>(std::max<int64_t>(1, x.size(-1)));
  return at::linalg_vector_norm(x, 2, {-1}, true) / std::sqrt(width);
}

}  // namespace

at::Tensor rms_norm_at_least_reference(const at::Tensor& x, const at::Tensor& scale, double least) {
  const at::Tensor wide = x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
  const at::Tensor normed = wide / root_mean_square(wide).clamp_min(least);
  return (scale.defined() ? normed * scale : normed).to(x.scalar_type());
}

at::Tensor rms_norm_outside_reference(const at::Tensor& x, const at::Tensor& scale, double eps) {
  const at::Tensor wide = x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
  const at::Tensor normed = wide / (root_mean_square(wide) + eps);
  return (scale.defined() ? normed * scale : normed).to(x.scalar_type());
}

}  // namespace formwork

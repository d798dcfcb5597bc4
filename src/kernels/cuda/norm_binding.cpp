#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "kernels/cuda/binding.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/on_tensors.h"

namespace formwork::gpu {
namespace {

using at::Tensor;

cuda::NormForm form_of(cpu::RmsForm form) {
  switch (form) {
    case cpu::RmsForm::left_out:
      return cuda::NormForm::crms;
    case cpu::RmsForm::at_least:
      return cuda::NormForm::at_least;
    case cpu::RmsForm::outside:
      return cuda::NormForm::outside;
    default:
      return cuda::NormForm::rms;
  }
}

cuda::Norm norm_of(const Tensor& x, const Tensor& scale, cuda::NormForm form) {
  cuda::Norm norm;
  norm.element = element_of(x);
  norm.form = form;
  norm.width = static_cast<int>(x.size(-1));
  norm.rows = x.numel() / x.size(-1);
  norm.x = x.data_ptr();
  norm.scale = floats(scale);
  return norm;
}

cuda::Norm norm_of(const Tensor& x, const Tensor& scale, const cpu::RmsNormForward& forward,
                   cpu::RmsForm form) {
  cuda::Norm norm = norm_of(x, scale, form_of(form));
  norm.inverse = floats(forward.inverse_root);
  norm.slope = floats(forward.slope);
  norm.first = floats(forward.row_sum);
  return norm;
}

/// Room for norm_backward where a vector of the channels gets a gradient.
Tensor partials_for(const Tensor& scale) {
  if (!scale.defined()) return {};
  return at::empty({2, cuda::kNormPartials, scale.size(0)}, scale.options());
}

}  // namespace

bool serves_norm(const Tensor& x) {
  return serves(x) && x.numel() > 0 && x.dim() > 0 && x.size(-1) <= cuda::kWidestNorm;
}

cpu::RmsNormForward rms_norm_forward(const Tensor& x, const Tensor& residual, const Tensor& scale,
                                     double eps, cpu::RmsForm form) {
  const Place place(x);
  const int64_t rows = x.numel() / x.size(-1);
  cpu::RmsNormForward result{at::empty_like(x), {}, row_numbers(x, rows), row_numbers(x, rows), {}};
  if (residual.defined()) result.sum = at::empty_like(x);
  if (form == cpu::RmsForm::left_out) result.row_sum = row_numbers(x, rows);
  cuda::Norm norm = norm_of(x, scale, result, form);
  norm.eps = static_cast<float>(eps);
  norm.residual = data_of(residual);
  norm.sum = data_of(result.sum);
  norm.y = result.y.data_ptr();
  succeed(cuda::norm_forward(norm, place.stream()));
  return result;
}

cpu::RmsNormBackward rms_norm_backward(const Tensor& gradient, const Tensor& sum_gradient,
                                       const Tensor& x, const cpu::RmsNormForward& forward,
                                       const Tensor& scale, cpu::RmsForm form) {
  const Place place(x);
  cpu::RmsNormBackward result{at::empty_like(x), {}};
  if (scale.defined()) result.scale = at::empty_like(scale);
  const Tensor partials = partials_for(scale);
  const cuda::Norm norm = norm_of(x, scale, forward, form);
  succeed(cuda::norm_backward(norm,
                              {gradient.data_ptr(), data_of(sum_gradient), result.x.data_ptr(),
                               floats(result.scale), nullptr, floats(partials)},
                              place.stream()));
  return result;
}

cpu::LayerNormForward add_layer_norm_forward(const Tensor& x, const Tensor& residual,
                                             const Tensor& weight, const Tensor& bias, double eps) {
  const Place place(x);
  const int64_t rows = x.numel() / x.size(-1);
  cpu::LayerNormForward result{at::empty_like(x), at::empty_like(x), row_numbers(x, rows),
                               row_numbers(x, rows)};
  cuda::Norm norm = norm_of(x, weight, cuda::NormForm::layer);
  norm.eps = static_cast<float>(eps);
  norm.residual = residual.data_ptr();
  norm.sum = result.sum.data_ptr();
  norm.y = result.y.data_ptr();
  norm.shift = floats(bias);
  norm.inverse = floats(result.inverse);
  norm.first = floats(result.mean);
  succeed(cuda::norm_forward(norm, place.stream()));
  return result;
}

cpu::LayerNormBackward add_layer_norm_backward(const Tensor& gradient, const Tensor& sum_gradient,
                                               const cpu::LayerNormForward& forward,
                                               const Tensor& weight) {
  const Place place(forward.sum);
  cpu::LayerNormBackward result{at::empty_like(forward.sum), {}, {}};
  if (weight.defined()) {
    result.weight = at::empty_like(weight);
    result.bias = at::empty_like(weight);
  }
  const Tensor partials = partials_for(weight);
  cuda::Norm norm = norm_of(forward.sum, weight, cuda::NormForm::layer);
  norm.inverse = floats(forward.inverse);
  norm.first = floats(forward.mean);
  succeed(cuda::norm_backward(norm,
                              {gradient.data_ptr(), data_of(sum_gradient), result.x.data_ptr(),
                               floats(result.weight), floats(result.bias), floats(partials)},
                              place.stream()));
  return result;
}

}  // namespace formwork::gpu

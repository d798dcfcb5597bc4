#include "kernels/rms_norm.h"

#include <torch/csrc/autograd/custom_function.h>

#include "kernels/rows.h"

namespace formwork {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
// What autograd takes for "no tensor"; it refuses undefined ones.
using Maybe = std::optional<Tensor>;

/// The gradient of x by plain operators, for those who differentiate it again.
Tensor differentiable_gradient(const Tensor& gradient, const Tensor& x, const Tensor& scale,
                               double eps, bool left_out, Tensor& scale_gradient) {
  // The derivative of the sum of squares is twice x, and the sum more for the channel left out.
  const int64_t channels = x.size(-1) + (left_out ? 1 : 0);
  const Tensor sum = x.sum(-1, true);
  const Tensor squares = x.square().sum(-1, true) + (left_out ? sum.square() : at::zeros_like(sum));
  const Tensor root = at::rsqrt(squares / channels + eps);
  const Tensor normed = x * root;
  const Tensor inner = scale.defined() ? gradient * scale : gradient;
  if (scale.defined()) scale_gradient = (gradient * normed).reshape({-1, x.size(-1)}).sum(0);
  const Tensor along = left_out ? normed + sum * root : normed;
  return root * (inner - along * (inner * normed).sum(-1, true) / channels);
}

/// Outputs {y} or, with a residual, {y, x + residual}.
struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static variable_list forward(AutogradContext* context, const Tensor& x,
                               const Maybe& maybe_residual, const Maybe& maybe_scale, double eps,
                               bool left_out) {
    const Tensor rows = x.contiguous();
    const Tensor residual = maybe_residual ? *maybe_residual : Tensor();
    const Tensor scale = maybe_scale ? *maybe_scale : Tensor();
    const Tensor other = residual.defined() ? residual.contiguous() : residual;
    const cpu::RmsNormForward result = cpu::rms_norm_forward(
        rows, other, scale, eps, left_out ? cpu::Channels::one_left_out : cpu::Channels::all);
    context->saved_data["eps"] = eps;
    context->saved_data["left_out"] = left_out;
    context->save_for_backward(
        {residual.defined() ? result.sum : rows, scale, result.inverse_root, result.row_sum});
    if (!residual.defined()) return {result.y};
    return {result.y, result.sum};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor& x = saved[0];
    const Tensor& scale = saved[1];
    const bool fused_sum = gradients.size() > 1;
    Tensor x_gradient, scale_gradient;
    if (at::GradMode::is_enabled()) {
      x_gradient =
          differentiable_gradient(gradients[0], x, scale, context->saved_data["eps"].toDouble(),
                                  context->saved_data["left_out"].toBool(), scale_gradient);
      if (fused_sum) x_gradient = x_gradient + gradients[1];
    } else {
      const Tensor sum_gradient = fused_sum ? gradients[1].contiguous() : Tensor();
      const cpu::RmsNormBackward result = cpu::rms_norm_backward(
          gradients[0].contiguous(), sum_gradient, x, saved[2], scale, saved[3]);
      x_gradient = result.x;
      scale_gradient = result.scale;
    }
    return {x_gradient, fused_sum ? x_gradient : Tensor(), scale_gradient, Tensor(), Tensor()};
  }
};

bool served_here(const Tensor& x) {
  return x.device().is_cpu() && x.dim() > 0 && x.size(-1) > 0;
}

Maybe widened(const Tensor& scale, const Tensor& x) {
  if (!scale.defined()) return std::nullopt;
  return scale.to(accumulator_type(x)).contiguous();
}

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& scale, double eps) {
  if (!served_here(x)) return rms_norm_reference(x, scale, eps);
  return RmsNorm::apply(x, Maybe(), widened(scale, x), eps, false)[0];
}

Tensor crms_norm(const Tensor& x, const Tensor& scale, double eps) {
  if (!served_here(x)) return crms_norm_reference(x, scale, eps);
  return RmsNorm::apply(x, Maybe(), widened(scale, x), eps, true)[0];
}

AddedRmsNorm add_rms_norm(const Tensor& x, const Tensor& residual, const Tensor& scale,
                          double eps) {
  const bool alike = x.sizes() == residual.sizes() && x.scalar_type() == residual.scalar_type();
  if (!served_here(x) || !alike) {
    const Tensor sum = x + residual;
    return {sum, rms_norm(sum, scale, eps)};
  }
  const variable_list out = RmsNorm::apply(x, Maybe(residual), widened(scale, x), eps, false);
  return {out[1], out[0]};
}

}  // namespace formwork

#include "kernels/rms_norm.h"

#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <utility>

#include "kernels/cuda/binding.h"
#include "kernels/rows.h"

namespace formwork {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
// What autograd takes for "no tensor"; it refuses undefined ones.
using Maybe = std::optional<Tensor>;

using cpu::RmsForm;

/// 1 / root of every row and its derivative by a channel x of the row, divided by -x; by plain
/// operators.
std::pair<Tensor, Tensor> root_and_slope(const Tensor& x, double eps, RmsForm form) {
  if (form == RmsForm::at_least || form == RmsForm::outside) {
    // Its second derivative is finite at 0 too.
    const Tensor length =
        at::linalg_vector_norm(x, 2, {-1}, true) / std::sqrt(static_cast<double>(x.size(-1)));
    const bool outside = form == RmsForm::outside;
    const Tensor root = (outside ? length + eps : length.clamp_min(eps)).reciprocal();
    const Tensor counts = length > (outside ? 0.0 : eps);
    const Tensor slope = root.square() / (x.size(-1) * at::where(counts, length, 1.0));
    return {root, at::where(counts, slope, 0.0)};
  }
  const Tensor squares = x.square().sum(-1, true);
  const bool left_out = form == RmsForm::left_out;
  const int64_t channels = x.size(-1) + (left_out ? 1 : 0);
  const Tensor all = left_out ? squares + x.sum(-1, true).square() : squares;
  const Tensor root = at::rsqrt(all / channels + eps);
  return {root, root.pow(3) / channels};
}

/// The gradient of x by plain operators, for those who differentiate it again.
Tensor differentiable_gradient(const Tensor& gradient, const Tensor& x, const Tensor& scale,
                               double eps, RmsForm form, Tensor& scale_gradient) {
  const auto [root, slope] = root_and_slope(x, eps, form);
  const Tensor inner = scale.defined() ? gradient * scale : gradient;
  if (scale.defined()) scale_gradient = (gradient * x * root).reshape({-1, x.size(-1)}).sum(0);
  const Tensor along = form == RmsForm::left_out ? x + x.sum(-1, true) : x;
  return root * inner - along * slope * (inner * x).sum(-1, true);
}

cpu::RmsNormForward forward_pass(const Tensor& x, const Tensor& residual, const Tensor& scale,
                                 double eps, RmsForm form) {
  if constexpr (gpu::kBuilt)
    if (x.is_cuda()) return gpu::rms_norm_forward(x, residual, scale, eps, form);
  return cpu::rms_norm_forward(x, residual, scale, eps, form);
}

cpu::RmsNormBackward backward_pass(const Tensor& gradient, const Tensor& sum_gradient,
                                   const Tensor& x, const cpu::RmsNormForward& forward,
                                   const Tensor& scale, [[maybe_unused]] RmsForm form) {
  if constexpr (gpu::kBuilt)
    if (x.is_cuda()) return gpu::rms_norm_backward(gradient, sum_gradient, x, forward, scale, form);
  return cpu::rms_norm_backward(gradient, sum_gradient, x, forward, scale);
}

/// Outputs {y} or, with a residual, {y, x + residual}.
struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static variable_list forward(AutogradContext* context, const Tensor& x,
                               const Maybe& maybe_residual, const Maybe& maybe_scale, double eps,
                               int64_t form) {
    const Tensor rows = x.contiguous();
    const Tensor residual = maybe_residual ? *maybe_residual : Tensor();
    const Tensor scale = maybe_scale ? *maybe_scale : Tensor();
    const Tensor other = residual.defined() ? residual.contiguous() : residual;
    const cpu::RmsNormForward result =
        forward_pass(rows, other, scale, eps, static_cast<RmsForm>(form));
    context->set_materialize_grads(false);
    context->saved_data["eps"] = eps;
    context->saved_data["form"] = form;
    context->save_for_backward({residual.defined() ? result.sum : rows, scale, result.inverse_root,
                                result.slope, result.row_sum});
    if (!residual.defined()) return {result.y};
    return {result.y, result.sum};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor& x = saved[0];
    const Tensor& scale = saved[1];
    const bool fused_sum = gradients.size() > 1;
    const Tensor more = fused_sum ? gradients[1] : Tensor();
    Tensor x_gradient, scale_gradient;
    if (!gradients[0].defined()) {  // the sum alone was used
      x_gradient = more;
    } else if (at::GradMode::is_enabled()) {
      x_gradient = differentiable_gradient(
          gradients[0], x, scale, context->saved_data["eps"].toDouble(),
          static_cast<RmsForm>(context->saved_data["form"].toInt()), scale_gradient);
      if (more.defined()) x_gradient = x_gradient + more;
    } else {
      const Tensor sum_gradient = more.defined() ? more.contiguous() : more;
      const cpu::RmsNormForward forward{{}, {}, saved[2], saved[3], saved[4]};
      const cpu::RmsNormBackward result =
          backward_pass(gradients[0].contiguous(), sum_gradient, x, forward, scale,
                        static_cast<RmsForm>(context->saved_data["form"].toInt()));
      x_gradient = result.x;
      scale_gradient = result.scale;
    }
    return {x_gradient, fused_sum ? x_gradient : Tensor(), scale_gradient, Tensor(), Tensor()};
  }
};

bool served_here(const Tensor& x) {
  if (x.dim() == 0 || x.size(-1) == 0) return false;
  if constexpr (gpu::kBuilt)
    if (x.is_cuda()) return gpu::serves_norm(x);
  return x.is_cpu();
}

Maybe widened(const Tensor& scale, const Tensor& x) {
  if (!scale.defined()) return std::nullopt;
  return scale.to(accumulator_type(x)).contiguous();
}

/// Autograd's context keeps no enumerations.
int64_t number(RmsForm form) {
  return static_cast<int64_t>(form);
}

bool alike(const Tensor& x, const Tensor& residual) {
  return served_here(x) && x.sizes() == residual.sizes() &&
         x.scalar_type() == residual.scalar_type();
}

AddedNorm added(const Tensor& x, const Tensor& residual, const Tensor& scale, double eps,
                RmsForm form) {
  const variable_list out =
      RmsNorm::apply(x, Maybe(residual), widened(scale, x), eps, number(form));
  return {out[1], out[0]};
}

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& scale, double eps) {
  if (!served_here(x)) return rms_norm_reference(x, scale, eps);
  return RmsNorm::apply(x, Maybe(), widened(scale, x), eps, number(RmsForm::plain))[0];
}

Tensor crms_norm(const Tensor& x, const Tensor& scale, double eps) {
  if (!served_here(x)) return crms_norm_reference(x, scale, eps);
  return RmsNorm::apply(x, Maybe(), widened(scale, x), eps, number(RmsForm::left_out))[0];
}

Tensor rms_norm_at_least(const Tensor& x, const Tensor& scale, double least) {
  if (!served_here(x)) return rms_norm_at_least_reference(x, scale, least);
  return RmsNorm::apply(x, Maybe(), widened(scale, x), least, number(RmsForm::at_least))[0];
}

Tensor rms_norm_outside(const Tensor& x, const Tensor& scale, double eps) {
  if (!served_here(x)) return rms_norm_outside_reference(x, scale, eps);
  return RmsNorm::apply(x, Maybe(), widened(scale, x), eps, number(RmsForm::outside))[0];
}

AddedNorm add_rms_norm(const Tensor& x, const Tensor& residual, const Tensor& scale, double eps) {
  if (!alike(x, residual)) {
    const Tensor sum = x + residual;
    return {sum, rms_norm(sum, scale, eps)};
  }
  return added(x, residual, scale, eps, RmsForm::plain);
}

AddedNorm add_crms_norm(const Tensor& x, const Tensor& residual, const Tensor& scale, double eps) {
  if (!alike(x, residual)) {
    const Tensor sum = x + residual;
    return {sum, crms_norm(sum, scale, eps)};
  }
  return added(x, residual, scale, eps, RmsForm::left_out);
}

}  // namespace formwork

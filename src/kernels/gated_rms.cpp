#include "kernels/gated_rms.h"

#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "kernels/rms_norm.h"

namespace formwork {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// The gradients by plain operators, for those who differentiate them again.
cpu::GatedRmsBackward differentiable(const Tensor& g, const Tensor& x, const Tensor& scale,
                                     const Tensor& gate, double eps) {
  const int64_t width = x.size(-1);
  const Tensor length =
      at::linalg_vector_norm(x, 2, {-1}, true) / std::sqrt(static_cast<double>(width));
  const Tensor root = (length + eps).reciprocal(), counts = length > 0;
  const Tensor slope =
      at::where(counts, root.square() / (width * at::where(counts, length, 1.0)), 0.0);
  const Tensor open = at::sigmoid(gate * x), inner = g * scale * open;
  const Tensor bend = inner * (1 - open) * x * root;
  const auto over_tokens = [&](const Tensor& t) { return t.reshape({-1, width}).sum(0); };
  return {inner * root + bend * gate - x * slope * (inner * x).sum(-1, true),
          over_tokens(g * x * root * open), over_tokens(bend * x)};
}

struct GatedRmsFunction : torch::autograd::Function<GatedRmsFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& scale,
                        const Tensor& gate, double eps) {
    const Tensor rows = x.contiguous();
    const cpu::GatedRmsForward result = cpu::gated_rms_forward(rows, scale, gate, eps);
    context->saved_data["eps"] = eps;
    context->save_for_backward({rows, scale, gate, result.root, result.slope});
    return result.y;
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &scale = saved[1], &gate = saved[2];
    const double eps = context->saved_data["eps"].toDouble();
    const cpu::GatedRmsBackward result =
        at::GradMode::is_enabled() ? differentiable(gradients[0], x, scale, gate, eps)
                                   : cpu::gated_rms_backward(gradients[0].contiguous(), x,
                                                             {{}, saved[3], saved[4]}, scale, gate);
    return {result.x, result.scale, result.gate, Tensor()};
  }
};

}  // namespace

Tensor gated_rms(const Tensor& x, const Tensor& scale, const Tensor& gate, double eps) {
  const bool served = x.device().is_cpu() && x.dim() > 0 && x.numel() > 0 &&
                      at::isFloatingType(x.scalar_type()) && x.scalar_type() != at::kDouble;
  if (!served) return gated_rms_reference(x, scale, gate, eps);
  return GatedRmsFunction::apply(x, scale.to(at::kFloat).contiguous(),
                                 gate.to(at::kFloat).contiguous(), eps);
}

Tensor gated_rms_reference(const Tensor& x, const Tensor& scale, const Tensor& gate, double eps) {
  const Tensor wide = x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
  return (rms_norm_outside_reference(wide, scale, eps) * at::sigmoid(gate * wide))
      .to(x.scalar_type());
}

}  // namespace formwork

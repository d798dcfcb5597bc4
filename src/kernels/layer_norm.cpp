#include "kernels/layer_norm.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "kernels/cuda/binding.h"
#include "kernels/rows.h"

namespace formwork {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// The gradients of x, weight and bias by plain operators, for those who differentiate them again.
cpu::LayerNormBackward differentiable_slopes(const Tensor& g, const Tensor& x, const Tensor& weight,
                                             double eps) {
  const Tensor centred = x - x.mean(-1, true);
  const Tensor inverse = at::rsqrt(centred.square().mean(-1, true) + eps);
  const Tensor z = centred * inverse, inner = weight.defined() ? g * weight : g;
  cpu::LayerNormBackward result;
  result.x = inverse * (inner - inner.mean(-1, true) - z * (inner * z).mean(-1, true));
  if (!weight.defined()) return result;
  result.weight = (g * z).reshape({-1, x.size(-1)}).sum(0);
  result.bias = g.reshape({-1, x.size(-1)}).sum(0);
  return result;
}

bool added_in_one_pass(const Tensor& x) {
  if constexpr (gpu::kBuilt)
    if (x.is_cuda()) return gpu::serves_norm(x);
  return x.is_cpu() && x.numel() > 0;
}

cpu::LayerNormForward add_and_norm(const Tensor& x, const Tensor& residual, const Tensor& weight,
                                   const Tensor& bias, double eps) {
  if constexpr (gpu::kBuilt)
    if (x.is_cuda()) return gpu::add_layer_norm_forward(x, residual, weight, bias, eps);
  return cpu::add_layer_norm_forward(x, residual, weight, bias, eps);
}

cpu::LayerNormBackward added_norm_slopes(const Tensor& gradient, const Tensor& sum_gradient,
                                         const cpu::LayerNormForward& forward,
                                         const Tensor& weight) {
  if constexpr (gpu::kBuilt)
    if (gradient.is_cuda())
      return gpu::add_layer_norm_backward(gradient, sum_gradient, forward, weight);
  return cpu::add_layer_norm_backward(gradient, sum_gradient, forward, weight);
}

/// Outputs {y, sum}.
struct AddLayerNorm : torch::autograd::Function<AddLayerNorm> {
  static variable_list forward(AutogradContext* context, const Tensor& x, const Tensor& residual,
                               const std::optional<Tensor>& weight,
                               const std::optional<Tensor>& bias, double eps) {
    const Tensor by = weight.value_or(Tensor());
    const cpu::LayerNormForward result =
        add_and_norm(x, residual, by, bias.value_or(Tensor()), eps);
    context->set_materialize_grads(false);
    context->saved_data["eps"] = eps;
    context->saved_data["bias"] = bias.has_value();
    context->save_for_backward({result.sum, by, result.mean, result.inverse});
    return {result.y, result.sum};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &g = gradients[0], &more = gradients[1];
    cpu::LayerNormBackward found;
    if (!g.defined()) {  // the sum alone was used
      found.x = more;
    } else if (at::GradMode::is_enabled()) {
      found = differentiable_slopes(g, saved[0], saved[1], context->saved_data["eps"].toDouble());
      if (more.defined()) found.x = found.x + more;
    } else {
      found = added_norm_slopes(g.contiguous(), more.defined() ? more.contiguous() : more,
                                {{}, saved[0], saved[2], saved[3]}, saved[1]);
    }
    if (!context->saved_data["bias"].toBool()) found.bias = Tensor();
    return {found.x, found.x, found.weight, found.bias, Tensor()};
  }
};

std::optional<Tensor> of_type(const Tensor& vector, at::ScalarType type) {
  if (!vector.defined()) return std::nullopt;
  return vector.to(type).contiguous();
}

}  // namespace

AddedNorm add_layer_norm(const Tensor& x, const Tensor& residual, const Tensor& weight,
                         const Tensor& bias, double eps) {
  const bool alike = x.sizes() == residual.sizes() && x.scalar_type() == residual.scalar_type();
  // A bias without a weight would need sums of its own.
  if (!alike || !added_in_one_pass(x) || (bias.defined() && !weight.defined())) {
    const Tensor sum = x + residual;
    return {sum, at::layer_norm(sum, sum.sizes().slice(sum.dim() - 1), weight, bias, eps)};
  }
  const at::ScalarType type = accumulator_type(x);
  const variable_list out = AddLayerNorm::apply(x.contiguous(), residual.contiguous(),
                                                of_type(weight, type), of_type(bias, type), eps);
  return {out[1], out[0]};
}

}  // namespace formwork

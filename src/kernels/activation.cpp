#include "kernels/activation.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"
#include "kernels/cuda/binding.h"
#include "kernels/differentiated_again.h"

namespace formwork {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using MaybeTensor = std::optional<Tensor>;

struct NamedActivation {
  const char* name;
  Activation function;
  Tensor (*plain)(const Tensor&);
};

constexpr NamedActivation kActivations[] = {
    {"gelu", Activation::gelu, [](const Tensor& v) { return at::gelu(v, "none"); }},
    {"gelu_tanh", Activation::gelu_tanh, [](const Tensor& v) { return at::gelu(v, "tanh"); }},
    {"relu", Activation::relu, [](const Tensor& v) { return at::relu(v); }},
    {"relu2", Activation::relu2, [](const Tensor& v) { return at::relu(v).square(); }},
    {"silu", Activation::silu, [](const Tensor& v) { return at::silu(v); }},
    {"sigmoid", Activation::sigmoid, [](const Tensor& v) { return at::sigmoid(v); }},
    {"identity", Activation::identity, [](const Tensor& v) { return v; }},
};

MaybeTensor maybe(const Tensor& tensor) {
  return tensor.defined() ? MaybeTensor(tensor) : std::nullopt;
}
Tensor or_undefined(const MaybeTensor& tensor) {
  return tensor.value_or(Tensor());
}

ActivationExtras with_wide_bias(ActivationExtras extras) {
  if (extras.bias.defined()) extras.bias = extras.bias.to(at::kFloat).contiguous();
  return extras;
}

void activate_into(const Tensor& z, Activation function, const ActivationExtras& extras,
                   const Tensor& y) {
  if constexpr (gpu::kBuilt)
    if (z.is_cuda()) return gpu::activation_forward(z, function, extras, y);
  cpu::activation_forward(z, function, with_wide_bias(extras), y);
}

cpu::ActivationBackward activation_slopes(const Tensor& gradient, const Tensor& z,
                                          Activation function, const ActivationExtras& extras) {
  if constexpr (gpu::kBuilt)
    if (z.is_cuda()) return gpu::activation_backward(gradient, z, function, extras);
  return cpu::activation_backward(gradient, z, function, with_wide_bias(extras));
}

struct Activate : torch::autograd::Function<Activate> {
  static Tensor forward(AutogradContext* context, const Tensor& z, const MaybeTensor& bias,
                        const MaybeTensor& factor, const MaybeTensor& residual, int64_t function) {
    ActivationExtras extras{or_undefined(bias), or_undefined(factor), or_undefined(residual)};
    context->saved_data["function"] = function;
    context->saved_data["residual"] = residual.has_value();
    context->save_for_backward({z, extras.bias, extras.factor});
    const Tensor y = at::empty_like(z);
    activate_into(z, static_cast<Activation>(function), extras, y);
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const auto function = static_cast<Activation>(context->saved_data["function"].toInt());
    const Tensor& g = gradients[0];
    const Tensor passed = context->saved_data["residual"].toBool() ? g : Tensor();
    if (at::GradMode::is_enabled()) {  // somebody will differentiate the gradient again
      const Tensor y = activate_reference(saved[0], function, {saved[1], saved[2], {}});
      const variable_list found = differentiated_again(y, saved, g);
      return {found[0], found[1], found[2], passed, Tensor()};
    }
    cpu::ActivationBackward result =
        activation_slopes(g.contiguous(), saved[0], function, {saved[1], saved[2], {}});
    if (result.bias.defined()) result.bias = result.bias.to(saved[1].scalar_type());
    return {result.z, result.bias, result.factor, passed, Tensor()};
  }
};

bool like(const Tensor& tensor, const Tensor& z) {
  return !tensor.defined() || (tensor.sizes() == z.sizes() && tensor.device() == z.device() &&
                               tensor.scalar_type() == z.scalar_type());
}

bool fused_here(const Tensor& z, [[maybe_unused]] Activation function,
                const ActivationExtras& extras) {
  if (z.dim() == 0 || z.numel() == 0 || !like(extras.factor, z) || !like(extras.residual, z))
    return false;
  if constexpr (gpu::kBuilt)
    if (z.is_cuda()) return gpu::serves_activation(z, function, extras);
  const auto type = z.scalar_type();
  return z.is_cpu() && (type == at::kFloat || type == at::kBFloat16 || type == at::kHalf);
}

Tensor in_order(const Tensor& tensor) {
  return tensor.defined() ? tensor.contiguous() : tensor;
}

void check_activation(const Tensor& z, const ActivationExtras& extras) {
  check(z.is_floating_point(), "activate", "found z of ", z.scalar_type(),
        "; supported: floating-point types");
  check(!extras.bias.defined() || extras.bias.sizes() == z.sizes().slice(z.dim() - 1), "activate",
        "found z ", z.sizes(), " and a bias ",
        extras.bias.defined() ? extras.bias.sizes() : z.sizes(),
        "; valid: one number a channel of z");
}

}  // namespace

const std::vector<std::string>& activation_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const NamedActivation& entry : kActivations) all.emplace_back(entry.name);
    return all;
  }();
  return names;
}

Activation activation_named(const std::string& name) {
  std::string valid;
  for (const NamedActivation& entry : kActivations) {
    if (name == entry.name) return entry.function;
    valid += (valid.empty() ? "" : ", ") + std::string(entry.name);
  }
  fail("activation", "no function is called ", name, "; valid: ", valid);
}

Tensor activate(const Tensor& z, Activation function, const ActivationExtras& extras) {
  check_activation(z, extras);
  if (!fused_here(z, function, extras)) return activate_reference(z, function, extras);
  return Activate::apply(z.contiguous(), maybe(extras.bias), maybe(in_order(extras.factor)),
                         maybe(in_order(extras.residual)), static_cast<int64_t>(function));
}

Tensor activate_in_place(const Tensor& z, Activation function, const ActivationExtras& extras) {
  check_activation(z, extras);
  if (!fused_here(z, function, extras) || !z.is_contiguous())
    return activate_reference(z, function, extras);
  const ActivationExtras all{extras.bias, in_order(extras.factor), in_order(extras.residual)};
  activate_into(z, function, all, z);
  return z;
}

Tensor activate_reference(const Tensor& z, Activation function, const ActivationExtras& extras) {
  Tensor y = extras.bias.defined() ? z + extras.bias.to(z.scalar_type()) : z;
  for (const NamedActivation& entry : kActivations)
    if (entry.function == function) y = entry.plain(y);
  if (extras.factor.defined()) y = y * extras.factor;
  return extras.residual.defined() ? y + extras.residual : y;
}

}  // namespace formwork

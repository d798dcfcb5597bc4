#include "kernels/linear_map.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <ATen/record_function.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/processor.h"
#include "kernels/matmul.h"
#include "kernels/packed_linear.h"

namespace formwork {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// What autograd takes for "no tensor"; it refuses undefined ones.
std::optional<Tensor> if_defined(const Tensor& tensor) {
  return tensor.defined() ? std::optional<Tensor>(tensor) : std::nullopt;
}

/// The gradients of x [R,in] and weight [out,in] for that of x Wᵀ, where they are asked for.
variable_list slopes_of_product(AutogradContext* context, const Tensor& slope, const Tensor& x,
                                const Tensor& weight) {
  // Only those of blas have a gradient of their own.
  const bool again = at::GradMode::is_enabled();
  variable_list result(3);
  if (context->needs_input_grad(0))
    result[0] = again ? at::mm(slope, weight) : best_product(slope, weight.t());
  if (context->needs_input_grad(1))
    result[1] = again ? at::mm(slope.t(), x) : best_product(slope.t(), x.t());
  return result;
}

/// x [R,in].
struct LinearRows : torch::autograd::Function<LinearRows> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight,
                        const std::optional<Tensor>& bias) {
    context->save_for_backward({x, weight});
    context->saved_data["bias"] = bias.has_value();
    return best_product(x, weight, bias.value_or(Tensor()));
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    variable_list result = slopes_of_product(context, gradients[0], saved[0], saved[1]);
    if (context->saved_data["bias"].toBool() && context->needs_input_grad(2))
      result[2] = gradients[0].sum(0);
    return result;
  }
};

/// Products of bfloat16 are exact in float32, so this rounds once, where bfloat16's own do too.
/// x [R,in], weight [out,in], both bfloat16; bias of any type.
struct WidenedRows : torch::autograd::Function<WidenedRows> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight,
                        const std::optional<Tensor>& bias) {
    context->save_for_backward({x, weight});
    context->saved_data["bias"] = bias ? static_cast<int64_t>(bias->scalar_type()) : int64_t{-1};
    return best_product(x.to(at::kFloat), weight.to(at::kFloat),
                        bias ? bias->to(at::kFloat) : Tensor())
        .to(at::kBFloat16);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor slope = gradients[0].to(at::kFloat);
    variable_list result =
        slopes_of_product(context, slope, saved[0].to(at::kFloat), saved[1].to(at::kFloat));
    for (Tensor& each : result)
      if (each.defined()) each = each.to(at::kBFloat16);
    const int64_t bias = context->saved_data["bias"].toInt();
    if (bias >= 0) result[2] = slope.sum(0).to(static_cast<at::ScalarType>(bias));
    return result;
  }
};

bool autocasts_to_bfloat16() {
  return at::autocast::is_autocast_enabled(at::kCPU) &&
         at::autocast::get_autocast_dtype(at::kCPU) == at::kBFloat16;
}

/// Whether at::linear would multiply bfloat16 without instructions for it.
bool is_emulated(const Tensor& x, const Tensor& weight) {
  static const bool native = multiplies_bfloat16();
  if (native || !x.is_cpu() || x.dim() < 2 || x.numel() == 0 || weight.numel() == 0) return false;
  const auto low = [cast = autocasts_to_bfloat16()](const Tensor& tensor) {
    return tensor.scalar_type() == at::kBFloat16 || (cast && tensor.scalar_type() == at::kFloat);
  };
  return low(x) && low(weight);
}

Tensor widened_linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const bool cast = autocasts_to_bfloat16();
  const auto low = [cast](const Tensor& tensor) {
    return cast ? at::autocast::cached_cast(at::kBFloat16, tensor, at::kCPU) : tensor;
  };
  const Tensor rows = low(x).flatten(0, -2), map = low(weight);
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::DispatchKey::AutocastCPU);
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = weight.size(0);
  return WidenedRows::apply(rows, map, if_defined(bias)).view(shape);
}

bool gains(const ProductShape& shape) {
  return faster_library(shape) != MatmulLibrary::blas;
}

/// Whether any of the products that will be asked for is better done by another library than
/// at::linear's: x [...,in].
bool gains(const Tensor& x, const Tensor& weight) {
  const int64_t in = x.size(-1), rows = x.numel() / in, out = weight.size(0);
  const bool x_rows = x.stride(-1) == 1, w_rows = weight.stride(1) == 1;
  if (gains({rows, out, in, x_rows, w_rows})) return true;
  if (!at::GradMode::is_enabled()) return false;
  return (x.requires_grad() && gains({rows, in, out, true, !w_rows})) ||
         (weight.requires_grad() && gains({out, in, rows, false, !x_rows}));
}

/// Whether the weights' way from memory is all that counts, which MKL's products of one row use
/// half.
bool is_few(const Tensor& x, const Tensor& weight) {
  return !at::GradMode::is_enabled() && x.numel() <= kFewRows * x.size(-1) &&
         weight.is_contiguous() && !forced_library();
}

Tensor product_of_few(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const Tensor rows = x.reshape({-1, x.size(-1)}).contiguous();
  RECORD_FUNCTION("formwork::few_rows", std::vector<c10::IValue>({rows, weight.t()}));
  const Tensor y = at::empty({rows.size(0), weight.size(0)}, x.options());
  cpu::packed_linear_few(rows, {weight, {}}, bias.defined() ? bias.contiguous() : bias, y);
  return y;
}

}  // namespace

Tensor linear_map(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  if (is_emulated(x, weight)) return widened_linear(x, weight, bias);
  const bool plain = !x.is_cpu() || x.scalar_type() != at::kFloat ||
                     weight.scalar_type() != at::kFloat || x.dim() < 2 || x.numel() == 0 ||
                     at::autocast::is_autocast_enabled(at::kCPU);
  if (plain) return at::linear(x, weight, bias);
  Tensor y;
  if (is_few(x, weight)) {
    y = product_of_few(x, weight, bias);
  } else if (!gains(x, weight)) {
    return at::linear(x, weight, bias);
  } else if (at::GradMode::is_enabled()) {
    y = LinearRows::apply(x.flatten(0, -2), weight, if_defined(bias));
  } else {
    y = best_product(x.flatten(0, -2), weight, bias);
  }
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = weight.size(0);
  return y.view(shape);
}

Tensor linear_map(const Tensor& x, const Tensor& weight, const Epilogue& epilogue) {
  const ActivationExtras extras{epilogue.bias, {}, epilogue.residual};
  const Tensor z = linear_map(x, weight);
  // Without gradients nobody else sees the product.
  return at::GradMode::is_enabled() ? activate(z, epilogue.function, extras)
                                    : activate_in_place(z, epilogue.function, extras);
}

}  // namespace formwork

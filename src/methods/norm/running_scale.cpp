#include "methods/norm/running_scale.h"

#include <ATen/core/ivalue.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"
#include "kernels/channels.h"
#include "methods/collective.h"

namespace formwork {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Autograd's context keeps IValues only.
struct RuleHolder : torch::CustomClassHolder {
  explicit RuleHolder(GradientRule given) : rule(std::move(given)) {}
  GradientRule rule;
};

struct ScaleByRule : torch::autograd::Function<ScaleByRule> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight,
                        const Tensor& bias, const Tensor& inverse, const c10::IValue& rule) {
    context->save_for_backward({x, weight, bias});
    context->saved_data["rule"] = rule;
    return channel_scale(x, weight * inverse, bias);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    check(!at::GradMode::is_enabled(), "norm",
          "a norm whose backward pass follows its own rule cannot be differentiated twice");
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &bias = saved[2];
    const Tensor dy = gradients[0].to(x.scalar_type());
    const ChannelSums own = channel_products(dy, x, {}, {});
    const double tokens = static_cast<double>(x.numel() / x.size(-1));
    const Tensor all =
        sum_over_processes(at::cat({own.product, at::full({1}, tokens, own.product.options())}));
    const int64_t width = x.size(-1);
    const auto capsule = context->saved_data["rule"].toCapsule();
    const ScaleGradient by = static_cast<RuleHolder&>(*capsule).rule(
        all.narrow(0, 0, width) / all.narrow(0, width, 1).clamp_min(1));
    return {channel_combine(dy, by.gradient_factor, x, by.input_factor, {}),
            (own.product * by.weight_factor).to(weight.scalar_type()),
            own.first.to(bias.scalar_type()), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor mean_square(const Tensor& x, const Tensor& valid, const std::string& where) {
  const ChannelSums own = channel_moments(x, {}, valid);
  const int64_t width = x.size(-1);
  const Tensor tokens = valid.defined() ? valid.sum(own.product.scalar_type()).reshape({1})
                                        : at::full({1}, x.numel() / width, own.product.options());
  const Tensor all = sum_over_processes(at::cat({own.product, tokens}));
  const Tensor count = all.narrow(0, width, 1);
  check(count.item<double>() > 0, where,
        "found no valid token in a training batch; valid: at least 1");
  return all.narrow(0, 0, width) / count;
}

Tensor scale_by_rule(const Tensor& x, const Tensor& weight, const Tensor& bias,
                     const Tensor& inverse, GradientRule rule) {
  return ScaleByRule::apply(
      x, weight, bias, inverse,
      c10::IValue::make_capsule(c10::make_intrusive<RuleHolder>(std::move(rule))));
}

}  // namespace formwork

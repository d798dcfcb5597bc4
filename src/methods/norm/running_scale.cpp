#include "methods/norm/running_scale.h"

#include <ATen/core/ivalue.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"
#include "kernels/channels.h"
#include "kernels/grouped.h"
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

/// A sum over this process's tokens as the mean over those of all processes.
Tensor mean_over_tokens(const Tensor& sum, int64_t tokens, const std::string& where = "norm") {
  const int64_t width = sum.size(0);
  const Tensor all =
      sum_over_processes(at::cat({sum, at::full({1}, static_cast<double>(tokens), sum.options())}));
  const Tensor count = all.narrow(0, width, 1);
  check(count.item<double>() > 0, where,
        "found no valid token in a training batch; valid: at least 1");
  return all.narrow(0, 0, width) / count;
}

struct ScaleByRule : torch::autograd::Function<ScaleByRule> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight,
                        const Tensor& bias, const Tensor& inverse,
                        const std::optional<Tensor>& roots, const c10::IValue& rule) {
    context->save_for_backward({x, weight, bias, roots ? *roots : Tensor()});
    context->saved_data["rule"] = rule;
    const Tensor factor = weight * inverse;
    if (!roots) return channel_scale(x, factor, bias);
    return cpu::grouped_scale(x, *roots, factor, bias.to(factor.scalar_type()).contiguous());
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    check(!at::GradMode::is_enabled(), "norm",
          "a norm whose backward pass follows its own rule cannot be differentiated twice");
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &bias = saved[2], &roots = saved[3];
    const Tensor dy = gradients[0].to(x.scalar_type()).contiguous();
    const ChannelSums own = products(dy, x, roots);
    const int64_t width = x.size(-1);
    const Tensor mean = mean_over_tokens(own.product, x.numel() / width);
    const auto capsule = context->saved_data["rule"].toCapsule();
    const ScaleGradient by = static_cast<RuleHolder&>(*capsule).rule(mean);
    const Tensor dx = roots.defined()
                          ? cpu::grouped_gradient(dy, x, roots, by.gradient_factor, by.input_factor)
                          : channel_combine(dy, by.gradient_factor, x, by.input_factor, {});
    return {dx,
            (own.product * by.weight_factor).to(weight.scalar_type()),
            own.first.to(bias.scalar_type()),
            Tensor(),
            Tensor(),
            Tensor()};
  }

  static ChannelSums products(const Tensor& dy, const Tensor& x, const Tensor& roots) {
    if (!roots.defined()) return channel_products(dy, x, {}, {});
    const cpu::GroupedSums sums = cpu::grouped_sums(dy, x, roots, {}, {roots.size(-1), 0.0});
    return {sums.product, sums.first};
  }
};

int64_t count(const Tensor& x, const Tensor& valid) {
  return valid.defined() ? valid.sum().item<int64_t>() : x.numel() / x.size(-1);
}

}  // namespace

Tensor mean_square(const Tensor& x, const Tensor& valid, const std::string& where) {
  return mean_over_tokens(channel_moments(x, {}, valid).product, count(x, valid), where);
}

Tensor mean_square(const Tensor& x, const Tensor& valid, const std::string& where,
                   GroupScale& scale) {
  // Roots are measured for all tokens, valid or not: the norm is applied to all.
  const bool all = !valid.defined();
  if (!scale.roots.defined() && !all) mean_square(x, {}, where, scale);
  const cpu::GroupedSums sums = cpu::grouped_sums(
      {}, x, scale.roots, all ? valid : valid.contiguous(), {scale.groups, scale.eps});
  scale.roots = sums.roots;
  return mean_over_tokens(sums.product, count(x, valid), where);
}

Tensor scale_by_rule(const Tensor& x, const Tensor& weight, const Tensor& bias,
                     const Tensor& inverse, GradientRule rule, const GroupScale& scale) {
  const std::optional<Tensor> roots =
      scale.roots.defined() ? std::optional(scale.roots) : std::nullopt;
  return ScaleByRule::apply(
      x, weight, bias, inverse, roots,
      c10::IValue::make_capsule(c10::make_intrusive<RuleHolder>(std::move(rule))));
}

}  // namespace formwork

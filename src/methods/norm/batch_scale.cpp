#include "methods/norm/batch_scale.h"

#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"
#include "kernels/channels.h"
#include "methods/collective.h"

namespace formwork {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Moments {
  Tensor mean, variance;  // [D], biased, float64
  double tokens = 0.0;
};

/// Some valid token: sums of distances from it lose no digits where means are large.
Tensor any_token(const Tensor& x, const Tensor& valid) {
  const Tensor tokens = x.detach().reshape({-1, x.size(-1)});
  if (!valid.defined()) return tokens[0];
  return tokens[valid.reshape({-1}).to(at::kByte).argmax().item<int64_t>()];
}

Moments moments_of(const Tensor& x, const Tensor& valid, const std::string& where) {
  const int64_t width = x.size(-1);
  Tensor all = at::zeros({2 * width + 1}, x.options().dtype(at::kDouble));
  const double own = valid.defined() ? static_cast<double>(valid.sum().item<int64_t>())
                                     : static_cast<double>(x.numel() / width);
  if (own > 0) {
    const Tensor centre = any_token(x, valid).to(at::kDouble);
    const ChannelSums sums = channel_moments(x.detach(), centre, valid);
    const Tensor first = sums.first.to(at::kDouble), square = sums.product.to(at::kDouble);
    all.narrow(0, 0, width).copy_(first + own * centre);
    all.narrow(0, width, width).copy_(square + 2 * centre * first + own * centre.square());
    all.narrow(0, 2 * width, 1).fill_(own);
  }
  all = sum_over_processes(all);
  Moments result;
  result.tokens = all[2 * width].item<double>();
  check(result.tokens > 1, where, "found ", result.tokens,
        " valid token(s) in a training batch; valid: at least 2, to have a variance");
  result.mean = all.narrow(0, 0, width) / result.tokens;
  result.variance =
      (all.narrow(0, width, width) / result.tokens - result.mean.square()).clamp_min(0);
  return result;
}

/// What padded tokens become or are given back: eta times what is there.
Tensor with_padding(const Tensor& result, const Tensor& x, const Tensor& eta, const Tensor& valid) {
  if (!valid.defined()) return result;
  return at::where(valid.unsqueeze(-1), result, (x * eta).to(result.scalar_type()));
}

/// The whole map of x by plain operators, whose gradients have gradients.
Tensor scaled_plainly(const Tensor& x, const Tensor& valid, const BatchScale& parts) {
  const Tensor tokens = x.reshape({-1, x.size(-1)});
  const Tensor kept = valid.defined() ? tokens.index({valid.reshape({-1})}) : tokens;
  const Tensor mean = kept.mean(0), variance = (kept - mean).square().mean(0);
  const Tensor y =
      (x - mean) * (parts.weight * at::rsqrt(variance + parts.eps)) + parts.bias + parts.eta * x;
  return with_padding(y, x, parts.eta, valid);
}

struct ScaleByBatch : torch::autograd::Function<ScaleByBatch> {
  static Tensor forward(AutogradContext* context, const Tensor& x,
                        const std::optional<Tensor>& maybe_valid, const Tensor& weight,
                        const Tensor& bias, const Tensor& eta, const Tensor& mean,
                        const Tensor& inverse, double tokens, double eps) {
    const Tensor valid = maybe_valid ? *maybe_valid : Tensor();
    context->save_for_backward({x, valid, weight, bias, eta, mean, inverse});
    context->saved_data["tokens"] = tokens;
    context->saved_data["eps"] = eps;
    const Tensor gain = weight * inverse;
    return with_padding(channel_scale(x, gain + eta, bias - gain * mean), x, eta, valid);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    if (at::GradMode::is_enabled())
      return backward_plainly(saved, gradients, context->saved_data["eps"].toDouble());
    const Tensor &x = saved[0], &valid = saved[1], &weight = saved[2], &bias = saved[3];
    const Tensor &eta = saved[4], &mean = saved[5], &inverse = saved[6];
    const double tokens = context->saved_data["tokens"].toDouble();
    const Tensor dy = gradients[0].to(x.scalar_type());
    const ChannelSums own = channel_products(dy, x, mean, valid);
    const Tensor all = sum_over_processes(at::stack({own.product, own.first}));
    const Tensor gain = weight * inverse;
    const Tensor slope = gain * inverse.square() * all[0] / tokens;
    const Tensor dx =
        channel_combine(dy, gain + eta, x, -slope, slope * mean - gain * all[1] / tokens);
    // Over the padded tokens too: there the output is eta · x.
    const Tensor product =
        valid.defined() ? channel_products(dy, x, {}, {}).product : own.product + mean * own.first;
    return {with_padding(dx, dy, eta, valid),
            Tensor(),
            (own.product * inverse).to(weight.scalar_type()),
            own.first.to(bias.scalar_type()),
            product.sum().reshape({1}).to(eta.scalar_type()),
            Tensor(),
            Tensor(),
            Tensor(),
            Tensor()};
  }

  /// For gradients of gradients.
  static variable_list backward_plainly(const variable_list& saved, const variable_list& gradients,
                                        double eps) {
    check(!several_processes(), "norm",
          "batch statistics of several processes cannot be differentiated twice");
    const BatchScale parts{saved[2], saved[3], saved[4], {}, {}, eps, 0.0};
    const Tensor y = scaled_plainly(saved[0], saved[1], parts);
    variable_list wanted;
    for (const Tensor& tensor : {saved[0], saved[2], saved[3], saved[4]})
      if (tensor.requires_grad()) wanted.push_back(tensor);
    const variable_list slopes =
        torch::autograd::grad({y}, wanted, gradients,
                              /*retain_graph=*/true, /*create_graph=*/true);
    variable_list all(9);
    size_t next = 0;
    for (const size_t place : {0, 2, 3, 4})
      if (saved[place].requires_grad()) all[place] = slopes[next++];
    return all;
  }
};

}  // namespace

BatchStatistics take_statistics(const Tensor& x, const Tensor& valid, const BatchScale& parts,
                                const std::string& where) {
  const c10::NoGradGuard no_grad;
  const Moments now = moments_of(x, valid, where);
  const double unbiased = now.tokens / (now.tokens - 1);
  Tensor(parts.running_mean).mul_(1 - parts.momentum).add_(now.mean, parts.momentum);
  Tensor(parts.running_var).mul_(1 - parts.momentum).add_(now.variance * unbiased, parts.momentum);
  const auto type = at::promote_types(x.scalar_type(), at::kFloat);
  return {now.mean.to(type), at::rsqrt(now.variance + parts.eps).to(type), now.tokens};
}

Tensor batch_scale(const Tensor& x, const Tensor& valid, const BatchScale& parts,
                   const std::string& where) {
  const BatchStatistics now = take_statistics(x, valid, parts, where);
  const std::optional<Tensor> maybe = valid.defined() ? std::optional(valid) : std::nullopt;
  return ScaleByBatch::apply(x, maybe, parts.weight, parts.bias, parts.eta, now.mean, now.inverse,
                             now.tokens, parts.eps);
}

Tensor frozen_scale(const BatchScale& parts) {
  return parts.weight * at::rsqrt(parts.running_var + parts.eps) + parts.eta;
}
Tensor frozen_shift(const BatchScale& parts) {
  return parts.bias - parts.weight * at::rsqrt(parts.running_var + parts.eps) * parts.running_mean;
}

}  // namespace formwork

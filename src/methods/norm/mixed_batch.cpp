#include "methods/norm/mixed_batch.h"

#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"
#include "kernels/mixed_norm.h"
#include "kernels/rms_norm.h"
#include "kernels/rows.h"
#include "methods/collective.h"

namespace formwork {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Maybe = std::optional<Tensor>;

/// What the backward pass needs beside tensors.
struct Numbers {
  double share, eps, tokens;
};

struct MixByBatch : torch::autograd::Function<MixByBatch> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& token_weight,
                        const Maybe& token_bias, const Tensor& weight, const Tensor& bias,
                        const Tensor& eta, const Tensor& mean, const Tensor& inverse,
                        const Numbers& numbers) {
    const Tensor rows = x.contiguous();
    const double rest = 1 - numbers.share;
    const Tensor gain = weight * inverse;
    cpu::MixedNorm norm{numbers.share, numbers.eps,         token_bias.has_value(),
                        token_weight,  rest * (gain + eta), rest * (bias - gain * mean)};
    if (token_bias) norm.shift = norm.shift + numbers.share * *token_bias;
    const cpu::MixedForward result = cpu::mixed_norm_forward(rows, norm);
    context->save_for_backward(
        {rows, token_weight, weight, eta, mean, inverse, result.mean, result.inverse});
    context->saved_data["share"] = numbers.share;
    context->saved_data["tokens"] = numbers.tokens;
    context->saved_data["centred"] = token_bias.has_value();
    return result.y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    check(!at::GradMode::is_enabled(), "norm",
          "a norm with statistics of the batch cannot be differentiated twice");
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &token_weight = saved[1], &weight = saved[2], &eta = saved[3];
    const Tensor &mean = saved[4], &inverse = saved[5];
    const cpu::MixedForward forward{{}, saved[6], saved[7]};
    const double share = context->saved_data["share"].toDouble(), rest = 1 - share;
    const double tokens = context->saved_data["tokens"].toDouble();
    const bool centred = context->saved_data["centred"].toBool();
    const Tensor dy = gradients[0].to(x.scalar_type()).contiguous();
    const cpu::MixedSums own = cpu::mixed_norm_sums(dy, x, forward, token_weight, mean);
    const Tensor all = sum_over_processes(at::stack({own.product, own.gradient}));
    const Tensor gain = weight * inverse;
    const Tensor slope = gain * inverse.square() * all[0] / tokens;
    const cpu::MixedNorm norm{share,
                              0.0,
                              centred,
                              token_weight,
                              rest * (gain + eta),
                              rest * (slope * mean - gain * all[1] / tokens)};
    const Tensor dx = cpu::mixed_norm_backward(dy, x, forward, own, norm, -rest * slope);
    return {dx,
            share * own.normed,
            centred ? share * own.gradient : Tensor(),
            rest * own.product * inverse,
            rest * own.gradient,
            (rest * (own.product + mean * own.gradient)).sum().reshape({1}),
            Tensor(),
            Tensor(),
            Tensor()};
  }
};

}  // namespace

Tensor TokenNorm::operator()(const Tensor& x) const {
  if (bias.defined()) return at::layer_norm(x, weight.sizes(), weight, bias, eps);
  return rms_norm(x, weight, eps);
}

Tensor mixed_with_batch(const Tensor& x, const TokenNorm& token, double share,
                        const BatchScale& batch, const std::string& where) {
  const bool served =
      x.device().is_cpu() && x.numel() > 0 && token.weight.scalar_type() == accumulator_type(x);
  if (!served) {
    const Tensor second = batch_scale(x, {}, batch, where);
    return at::lerp(second, token(x).to(second.scalar_type()), share);
  }
  const BatchStatistics now = take_statistics(x, {}, batch, where);
  const Maybe bias = token.bias.defined() ? Maybe(token.bias) : std::nullopt;
  return MixByBatch::apply(x, token.weight, bias, batch.weight, batch.bias, batch.eta, now.mean,
                           now.inverse, Numbers{share, token.eps, now.tokens});
}

}  // namespace formwork

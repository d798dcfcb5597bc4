#include "kernels/attention.h"

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include "kernels/cuda/binding.h"
#include "kernels/rows.h"

namespace formwork {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

AttentionRule saved_rule(AutogradContext* context, const Tensor& key_valid) {
  AttentionRule rule;
  rule.causal = context->saved_data["causal"].toBool();
  rule.scale = context->saved_data["scale"].toDouble();
  rule.key_valid = key_valid;
  return rule;
}

/// By plain operators, for those of q, k and v that need one.
variable_list differentiable_gradients(const variable_list& inputs, const Tensor& gradient,
                                       const AttentionRule& rule) {
  variable_list asked;
  for (const Tensor& input : inputs)
    if (input.requires_grad()) asked.push_back(input);
  const Tensor out = attention_reference(inputs[0], inputs[1], inputs[2], rule);
  const variable_list found = torch::autograd::grad({out}, asked, {gradient}, true, true);
  variable_list result(6);
  for (size_t i = 0, next = 0; i < inputs.size(); ++i)
    if (inputs[i].requires_grad()) result[i] = found[next++];
  return result;
}

cpu::AttentionForward forward_by_tiles(const Tensor& q, const Tensor& k, const Tensor& v,
                                       const AttentionRule& rule) {
  if constexpr (gpu::kBuilt)
    if (q.is_cuda()) return gpu::attention_forward(q, k, v, rule);
  return cpu::attention_forward(q, k, v, rule);
}

cpu::AttentionBackward backward_by_tiles(const Tensor& gradient, const Tensor& q, const Tensor& k,
                                         const Tensor& v, const cpu::AttentionForward& forward,
                                         const AttentionRule& rule) {
  if constexpr (gpu::kBuilt)
    if (q.is_cuda()) return gpu::attention_backward(gradient, q, k, v, forward, rule);
  return cpu::attention_backward(gradient, q, k, v, forward, rule);
}

struct Attention : torch::autograd::Function<Attention> {
  static Tensor forward(AutogradContext* context, const Tensor& q, const Tensor& k, const Tensor& v,
                        const std::optional<Tensor>& key_valid, bool causal, double scale) {
    AttentionRule rule{causal, scale, key_valid.value_or(Tensor())};
    const cpu::AttentionForward result = forward_by_tiles(q, k, v, rule);
    context->saved_data["causal"] = causal;
    context->saved_data["scale"] = scale;
    context->save_for_backward({q, k, v, rule.key_valid, result.out, result.log_sum});
    return result.out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2];
    const AttentionRule rule = saved_rule(context, saved[3]);
    if (at::GradMode::is_enabled()) {  // somebody will differentiate the gradient again
      return differentiable_gradients({q, k, v}, gradients[0], rule);
    }
    const Tensor gradient = gradients[0].stride(-1) == 1 ? gradients[0] : gradients[0].contiguous();
    const cpu::AttentionBackward result =
        backward_by_tiles(gradient, q, k, v, {saved[4], saved[5]}, rule);
    return {result.q, result.k, result.v, Tensor(), Tensor(), Tensor()};
  }
};

bool served_here(const Tensor& q, const Tensor& k, const Tensor& v) {
  const auto type = q.scalar_type();
  if constexpr (gpu::kBuilt)
    if (q.is_cuda())
      return gpu::serves_attention(q, k, v) && q.numel() > 0 && k.numel() > 0 && v.numel() > 0;
  return q.device().is_cpu() && (type == at::kFloat || type == at::kBFloat16) &&
         k.scalar_type() == type && v.scalar_type() == type && q.numel() > 0 && k.numel() > 0 &&
         v.numel() > 0;
}

/// Whether products of whole matrices win: heads so wide that tiles of them leave the nearest
/// cache, and not so many scores that holding them matters. Causal tiles leave half of the work
/// out.
bool better_whole(const Tensor& q, const Tensor& k, const AttentionRule& rule) {
  constexpr int64_t kWide = 128, kMostScores = int64_t{1} << 24;
  return q.is_cpu() && q.scalar_type() == at::kFloat && !rule.causal && q.size(-1) > kWide &&
         q.size(0) * q.size(1) * q.size(2) * k.size(2) <= kMostScores;
}

Tensor rows_contiguous(const Tensor& x) {
  return x.stride(-1) == 1 || x.size(-1) == 1 ? x : x.contiguous();
}

}  // namespace

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionRule& rule) {
  if (!served_here(q, k, v) || better_whole(q, k, rule)) return attention_reference(q, k, v, rule);
  std::optional<Tensor> key_valid;
  if (rule.key_valid.defined()) key_valid = rule.key_valid.to(at::kBool).contiguous();
  return Attention::apply(rows_contiguous(q), rows_contiguous(k), rows_contiguous(v), key_valid,
                          rule.causal, rule.scale);
}

}  // namespace formwork

#include "kernels/attention.h"

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"
#include "kernels/cuda/binding.h"
#include "kernels/rows.h"

namespace formwork {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr const char* kAttention = "attention";

/// Kept with the context: what has gradients is saved beside the other tensors.
void save_rule(AutogradContext* context, const AttentionRule& rule) {
  auto& data = context->saved_data;
  data["causal"] = rule.causal;
  data["scale"] = rule.scale;
  data["back"] = rule.back;
  data["ahead"] = rule.ahead;
  data["block"] = rule.block;
  data["interleaved"] = rule.pairing == Pairing::interleaved;
}

AttentionRule saved_rule(AutogradContext* context) {
  auto& data = context->saved_data;
  AttentionRule rule;
  rule.causal = data["causal"].toBool();
  rule.scale = data["scale"].toDouble();
  rule.back = data["back"].toOptional<int64_t>();
  rule.ahead = data["ahead"].toOptional<int64_t>();
  rule.block = data["block"].toInt();
  rule.pairing = data["interleaved"].toBool() ? Pairing::interleaved : Pairing::half;
  return rule;
}

/// By plain operators, for those of the five inputs that need one.
variable_list differentiable_gradients(const variable_list& inputs, const variable_list& slopes,
                                       const AttentionRule& rule) {
  const AttentionResult result =
      attention_with_log_sum_reference(inputs[0], inputs[1], inputs[2], rule);
  variable_list asked, of, gradients;
  for (const Tensor& input : inputs)
    if (input.defined() && input.requires_grad()) asked.push_back(input);
  for (const auto& [output, slope] :
       {std::pair(result.out, slopes[0]), std::pair(result.log_sum_exp, slopes[1])}) {
    if (!slope.defined()) continue;
    of.push_back(output);
    gradients.push_back(slope);
  }
  const variable_list found = torch::autograd::grad(of, asked, gradients, true, true, true);
  variable_list result_gradients(6);
  for (size_t i = 0, next = 0; i < inputs.size(); ++i)
    if (inputs[i].defined() && inputs[i].requires_grad()) result_gradients[i] = found[next++];
  return result_gradients;
}

using Maybe = std::optional<Tensor>;

AttentionResult forward_pass(const Tensor& q, const Tensor& k, const Tensor& v,
                             const AttentionRule& rule) {
  if constexpr (gpu::kBuilt)
    if (q.is_cuda()) return gpu::attention_forward(q, k, v, rule);
  return cpu::attention_forward(q, k, v, rule);
}

cpu::AttentionBackward backward_pass(const cpu::AttentionSlopes& slopes, const Tensor& q,
                                     const Tensor& k, const Tensor& v,
                                     const AttentionResult& forward, const AttentionRule& rule) {
  if constexpr (gpu::kBuilt)
    if (q.is_cuda()) return gpu::attention_backward(slopes.out, q, k, v, forward, rule);
  return cpu::attention_backward(slopes, q, k, v, forward, rule);
}

struct Attention : torch::autograd::Function<Attention> {
  /// Outputs and log-sums; the tensors that have gradients stand before the rule, which holds them
  /// too.
  static variable_list forward(AutogradContext* context, const Tensor& q, const Tensor& k,
                               const Tensor& v, const Maybe& bias, const Maybe& offset_bias,
                               const AttentionRule& rule) {
    const AttentionResult result = forward_pass(q, k, v, rule);
    save_rule(context, rule);
    context->saved_data["bias"] = bias && bias->requires_grad();
    context->saved_data["offset_bias"] = offset_bias && offset_bias->requires_grad();
    context->save_for_backward({q, k, v, rule.bias, rule.offset_bias, result.out,
                                result.log_sum_exp, rule.key_valid, rule.open_blocks, rule.cosine,
                                rule.sine});
    context->set_materialize_grads(false);
    return {result.out, result.log_sum_exp};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    AttentionRule rule = saved_rule(context);
    rule.bias = saved[3];
    rule.offset_bias = saved[4];
    rule.key_valid = saved[7];
    rule.open_blocks = saved[8];
    rule.cosine = saved[9];
    rule.sine = saved[10];
    const variable_list inputs(saved.begin(), saved.begin() + 5);
    // Somebody will differentiate the gradient again, or wants what the CUDA kernels do not give.
    if (at::GradMode::is_enabled() || (saved[0].is_cuda() && gradients[1].defined()))
      return differentiable_gradients(inputs, gradients, rule);
    cpu::AttentionSlopes slopes;
    slopes.out = gradients[0].defined() ? gradients[0] : at::zeros_like(saved[5]);
    if (slopes.out.stride(-1) != 1) slopes.out = slopes.out.contiguous();
    if (gradients[1].defined()) slopes.log_sum_exp = gradients[1].contiguous();
    slopes.bias = context->saved_data["bias"].toBool();
    slopes.offset_bias = context->saved_data["offset_bias"].toBool();
    const cpu::AttentionBackward result =
        backward_pass(slopes, saved[0], saved[1], saved[2], {saved[5], saved[6]}, rule);
    return {result.q, result.k, result.v, result.bias, result.offset_bias, Tensor()};
  }
};

bool served_here(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionRule& rule) {
  if (q.numel() == 0 || k.numel() == 0 || v.numel() == 0) return false;
  if constexpr (gpu::kBuilt)
    if (q.is_cuda()) return gpu::serves_attention(q, k, v, rule);
  const auto type = q.scalar_type();
  return q.device().is_cpu() && (type == at::kFloat || type == at::kBFloat16) &&
         k.scalar_type() == type && v.scalar_type() == type;
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

void check_inputs(const Tensor& q, const Tensor& k, const Tensor& v) {
  check(q.dim() == 4 && k.dim() == 4 && v.dim() == 4, kAttention, "found q ", q.sizes(), ", k ",
        k.sizes(), " and v ", v.sizes(), "; valid: four dimensions each, [B,H,N,K]");
  check(k.size(0) == q.size(0) && v.size(0) == q.size(0) && k.size(3) == q.size(3) &&
            v.size(1) == k.size(1) && v.size(2) == k.size(2),
        kAttention, "found q ", q.sizes(), ", k ", k.sizes(), " and v ", v.sizes(),
        "; valid: q [B,H,Nq,K], k [B,Hkv,Nk,K] and v [B,Hkv,Nk,V]");
  check(k.size(1) > 0 && q.size(1) % k.size(1) == 0, kAttention, "found ", q.size(1),
        " heads of queries and ", k.size(1),
        " of keys; valid: a number of key heads that divides "
        "that of the queries");
}

void check_rule(const Tensor& q, const Tensor& k, const AttentionRule& rule) {
  const int64_t batch = q.size(0), heads = q.size(1), queries = q.size(2), keys = k.size(2);
  const Tensor& valid = rule.key_valid;
  check(!valid.defined() ||
            (valid.scalar_type() == at::kBool && valid.sizes() == at::IntArrayRef({batch, keys})),
        kAttention, "found key_valid ", valid.defined() ? valid.toString() : "", " ",
        valid.defined() ? valid.sizes() : at::IntArrayRef(), "; valid: bool [", batch, ",", keys,
        "], one for each key");
  const auto one_or = [](int64_t size, int64_t whole) { return size == 1 || size == whole; };
  const Tensor& bias = rule.bias;
  check(!bias.defined() ||
            (bias.is_floating_point() && bias.dim() == 4 && one_or(bias.size(0), batch) &&
             one_or(bias.size(1), heads) && bias.size(2) == queries && bias.size(3) == keys),
        kAttention, "found bias ", bias.defined() ? bias.sizes() : at::IntArrayRef(),
        "; valid: floating-point [", batch, " or 1,", heads, " or 1,", queries, ",", keys, "]");
  const Tensor& offsets = rule.offset_bias;
  check(!offsets.defined() ||
            (offsets.is_floating_point() && offsets.dim() == 2 && one_or(offsets.size(0), heads) &&
             offsets.size(1) == queries + keys - 1),
        kAttention, "found offset_bias ", offsets.defined() ? offsets.sizes() : at::IntArrayRef(),
        "; valid: floating-point [", heads, " or 1,", queries + keys - 1,
        "], one for each key minus query");
  const Tensor& blocks = rule.open_blocks;
  check(!blocks.defined() || rule.block >= 1, kAttention, "found blocks of ", rule.block,
        " tokens; valid: 1 or more");
  const auto blocks_of = [&](int64_t n) { return (n + rule.block - 1) / rule.block; };
  check(
      !blocks.defined() || (blocks.scalar_type() == at::kBool && blocks.dim() == 3 &&
                            one_or(blocks.size(0), heads) && blocks.size(1) == blocks_of(queries) &&
                            blocks.size(2) == blocks_of(keys)),
      kAttention, "found open_blocks ", blocks.defined() ? blocks.sizes() : at::IntArrayRef(),
      "; valid: bool [", heads, " or 1,", blocks_of(queries), ",", blocks_of(keys),
      "], one for each pair of blocks");
  const Tensor &cosine = rule.cosine, &sine = rule.sine;
  if (!cosine.defined() && !sine.defined()) return;
  check(cosine.defined() && sine.defined() && cosine.sizes() == sine.sizes() &&
            (cosine.dim() == 2 ||
             (cosine.dim() == 4 && cosine.size(0) == batch && cosine.size(1) == 1)) &&
            cosine.size(-2) == keys && 2 * cosine.size(-1) <= q.size(3) && queries <= keys,
        kAttention, "found cosines ", cosine.defined() ? cosine.sizes() : at::IntArrayRef(),
        " and sines ", sine.defined() ? sine.sizes() : at::IntArrayRef(), " for ", queries,
        " queries and ", keys, " keys; valid: both [", keys, ",d/2] or [", batch, ",1,", keys,
        ",d/2] with d at most ", q.size(3), ", and no more queries than keys");
}

}  // namespace

AttentionResult attention_with_log_sum(const Tensor& q, const Tensor& k, const Tensor& v,
                                       const AttentionRule& rule) {
  check_inputs(q, k, v);
  check_rule(q, k, rule);
  if (!served_here(q, k, v, rule) || better_whole(q, k, rule))
    return attention_with_log_sum_reference(q, k, v, rule);
  AttentionRule packed = rule;
  if (rule.key_valid.defined()) packed.key_valid = rule.key_valid.contiguous();
  if (rule.open_blocks.defined()) packed.open_blocks = rule.open_blocks.contiguous();
  if (rule.cosine.defined()) {
    packed.cosine = rule.cosine.to(at::kFloat).contiguous();
    packed.sine = rule.sine.to(at::kFloat).contiguous();
  }
  Maybe bias, offset_bias;
  if (rule.bias.defined()) bias = packed.bias = rows_contiguous(rule.bias.to(at::kFloat));
  if (rule.offset_bias.defined())
    offset_bias = packed.offset_bias = rule.offset_bias.to(at::kFloat).contiguous();
  const Tensor rows[] = {rows_contiguous(q), rows_contiguous(k), rows_contiguous(v)};
  const auto trains = [](const Tensor& x) { return x.defined() && x.requires_grad(); };
  const bool recorded =
      c10::GradMode::is_enabled() &&
      (trains(q) || trains(k) || trains(v) || trains(packed.bias) || trains(packed.offset_bias));
  if (!recorded) return forward_pass(rows[0], rows[1], rows[2], packed);
  const variable_list results =
      Attention::apply(rows[0], rows[1], rows[2], bias, offset_bias, packed);
  return {results[0], results[1]};
}

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionRule& rule) {
  return attention_with_log_sum(q, k, v, rule).out;
}

}  // namespace formwork

#include "methods/mixer/attention.h"

#include <c10/core/GradMode.h>

#include <cmath>
#include <limits>

#include "kernels/attention.h"
#include "methods/selective_observer.h"

namespace formwork {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

/// The mask that fused attention takes: bool, or a bias with -infinity at closed pairs.
std::optional<Tensor> fused_mask(const Tensor& q, const Scores& scores) {
  if (!scores.bias.defined())
    return scores.allowed.defined() ? std::optional(scores.allowed) : std::nullopt;
  Tensor mask = scores.bias.to(q.scalar_type());
  if (scores.allowed.defined())
    mask = mask.masked_fill(scores.allowed.logical_not(), kMinusInfinity);
  // Three dimensions would leave the fused kernel.
  return mask.dim() == 3 ? mask.unsqueeze(0) : mask;
}

Tensor below_diagonal(int64_t n, const Tensor& like) {
  return at::ones({n, n}, like.options().dtype(at::kBool)).tril();
}

/// Fewer queries than this leave most of a tile empty; very few stream through keys and values.
constexpr int64_t kFewQueries = 16;

/// A bias that the tiled kernel takes, [B|1,H|1,Nq,Nk]; undefined where it is of another shape.
Tensor tiled_bias(const Tensor& bias, const Tensor& q, const Tensor& k) {
  const Tensor wide = bias.dim() == 3 ? bias.unsqueeze(0) : bias;
  const auto fits = [&](int64_t d, int64_t size) {
    return wide.size(d) == 1 || wide.size(d) == size;
  };
  const bool whole = wide.dim() == 4 && fits(0, q.size(0)) && fits(1, q.size(1)) &&
                     wide.size(2) == q.size(2) && wide.size(3) == k.size(2);
  return whole ? wide : Tensor();
}

/// The rule of the tiled kernel, where it can express the scores: all pairs, the past, padded keys,
/// biases of whole pairs.
std::optional<AttentionRule> tiled_rule(const Tensor& q, const Tensor& k, const Scores& scores) {
  if (!tiles_serve(q, k, scores.dropout)) return std::nullopt;
  AttentionRule rule;
  rule.causal = scores.causal;
  rule.scale = scores.scale.value_or(1.0 / std::sqrt(static_cast<double>(q.size(-1))));
  if (scores.bias.defined()) {
    rule.bias = tiled_bias(scores.bias, q, k);
    if (!rule.bias.defined()) return std::nullopt;
  }
  if (!scores.allowed.defined()) return rule;
  if (scores.allowed.sizes() != at::IntArrayRef({q.size(0), 1, 1, k.size(2)})) return std::nullopt;
  rule.key_valid = scores.allowed.reshape({q.size(0), k.size(2)});
  return rule;
}

}  // namespace

bool tiles_serve(const Tensor& q, const Tensor& k, double dropout) {
  const auto type = q.scalar_type();
  return dropout == 0.0 && q.device().is_cpu() && (type == at::kFloat || type == at::kBFloat16) &&
         k.scalar_type() == type && (q.size(2) >= kFewQueries || attention_streams(q, k));
}

Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const Scores& scores) {
  if (const auto rule = tiled_rule(q, k, scores)) return attention(q, k, v, *rule);
  const bool shared = k.size(1) != q.size(1);
  if (!scores.allowed.defined() && !scores.bias.defined())
    return at::scaled_dot_product_attention(q, k, v, {}, scores.dropout, scores.causal,
                                            scores.scale, shared);
  Scores both = scores;
  if (scores.causal) {
    const Tensor past = below_diagonal(q.size(2), q);
    both.allowed = scores.allowed.defined() ? scores.allowed.logical_and(past) : past;
  }
  return at::scaled_dot_product_attention(q, k, v, fused_mask(q, both), scores.dropout, false,
                                          scores.scale, shared);
}

Tensor attention_scores(const Tensor& q, const Tensor& k, const Scores& scores) {
  const double scale = scores.scale.value_or(1.0 / std::sqrt(static_cast<double>(q.size(-1))));
  const int64_t groups = q.size(-3) / k.size(-3);
  const Tensor keys = groups == 1 ? k : k.repeat_interleave(groups, -3);
  Tensor logits = at::matmul(q * scale, keys.transpose(-2, -1));
  if (scores.bias.defined()) logits = logits + scores.bias;
  if (scores.allowed.defined())
    logits = logits.masked_fill(scores.allowed.logical_not(), kMinusInfinity);
  if (scores.causal)
    logits = logits.masked_fill(below_diagonal(q.size(-2), q).logical_not(), kMinusInfinity);
  return logits;
}

Tensor attention_weights(const Tensor& q, const Tensor& k, const Scores& scores) {
  // Rows without an allowed key become 0, not NaN.
  const Tensor weights = at::_safe_softmax(attention_scores(q, k, scores), -1);
  return scores.dropout > 0.0 ? at::dropout(weights, scores.dropout, true) : weights;
}

void show_attention(const Stream& stream, const Tensor& q, const Tensor& k, Scores scores) {
  if (!wanted(stream, "scores") && !wanted(stream, "attention")) return;
  const c10::NoGradGuard no_grad;
  const Tensor logits = attention_scores(q.detach(), k.detach(), scores);
  stream.show("scores", logits);
  stream.show("attention", at::_safe_softmax(logits, -1));
}

bool all_valid(const Tensor& valid) {
  return !valid.defined() || valid.all().item<bool>();
}

void show_parts(const Stream& stream, const Tensor& q, const Tensor& k, const Tensor& v,
                const Scores& scores) {
  if (!stream.observer) return;
  stream.show("query", q);
  stream.show("key", k);
  stream.show("value", v);
  show_attention(stream, q, k, scores);
}

bool right_padded(const Tensor& valid) {
  const int64_t n = valid.size(1);
  return n < 2 || !valid.narrow(1, 1, n - 1).gt(valid.narrow(1, 0, n - 1)).any().item<bool>();
}

void hide_padding(Scores& scores, const Tensor& valid) {
  if (!valid.defined()) return;
  // On a GPU a mask costs less than to look whether it is needed.
  if (scores.causal && valid.is_cpu() && right_padded(valid)) return;
  scores.allowed = valid.unsqueeze(1).unsqueeze(2);
}

}  // namespace formwork

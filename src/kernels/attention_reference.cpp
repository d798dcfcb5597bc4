#include <limits>

#include "kernels/attention.h"

namespace formwork {
namespace {

constexpr double kClosed = -std::numeric_limits<double>::infinity();

/// [Nq,Nk]: key minus the place of the query.
at::Tensor offsets_of(const at::Tensor& q, const at::Tensor& k) {
  const auto options = q.options().dtype(at::kLong);
  const int64_t queries = q.size(2), keys = k.size(2);
  return at::arange(keys, options) - at::arange(keys - queries, keys, options).unsqueeze(1);
}

at::Tensor scores_of(const at::Tensor& q, const at::Tensor& keys, const AttentionRule& rule) {
  const auto type = keys.scalar_type();
  at::Tensor scores = at::matmul(q.to(type) * rule.scale, keys.transpose(-2, -1));
  const auto close = [&](const at::Tensor& closed) {
    scores = scores.masked_fill(closed, kClosed);
  };
  if (rule.bias.defined()) scores = scores + rule.bias.to(type);
  if (rule.offset_bias.defined()) {
    const at::Tensor places = offsets_of(q, keys) + (keys.size(2) - 1);
    scores = scores + rule.offset_bias.to(type).index({at::indexing::Slice(), places});
  }
  if (rule.causal) close(offsets_of(q, keys) > 0);
  if (rule.back) close(offsets_of(q, keys) < -*rule.back);
  if (rule.ahead) close(offsets_of(q, keys) > *rule.ahead);
  if (rule.key_valid.defined()) close(rule.key_valid.logical_not().unsqueeze(1).unsqueeze(2));
  if (rule.open_blocks.defined())
    close(rule.open_blocks.repeat_interleave(rule.block, 1)
              .narrow(1, 0, q.size(2))
              .repeat_interleave(rule.block, 2)
              .narrow(2, 0, keys.size(2))
              .logical_not());
  return scores;
}

/// Rows of x, the last of which has the last place.
at::Tensor turned(const at::Tensor& x, const AttentionRule& rule) {
  if (!rule.cosine.defined()) return x;
  const int64_t n = x.size(2), first = rule.cosine.size(-2) - n;
  return rotate_pairs_reference(x, rule.cosine.narrow(-2, first, n), rule.sine.narrow(-2, first, n),
                                rule.pairing);
}

}  // namespace

AttentionResult attention_with_log_sum_reference(const at::Tensor& q, const at::Tensor& k,
                                                 const at::Tensor& v, const AttentionRule& rule) {
  const int64_t groups = q.size(1) / k.size(1);
  const auto type = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const auto spread = [&](const at::Tensor& x) {
    return groups == 1 ? x.to(type) : x.to(type).repeat_interleave(groups, 1);
  };
  const at::Tensor scores =
      scores_of(turned(q.to(type), rule), spread(turned(k.to(type), rule)), rule);
  return {at::matmul(at::_safe_softmax(scores, -1), spread(v)).to(q.scalar_type()),
          at::logsumexp(scores, -1)};
}

at::Tensor attention_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const AttentionRule& rule) {
  return attention_with_log_sum_reference(q, k, v, rule).out;
}

}  // namespace formwork

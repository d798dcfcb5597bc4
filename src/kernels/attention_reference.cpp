#include <limits>

#include "kernels/attention.h"

namespace formwork {

at::Tensor attention_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const AttentionRule& rule) {
  const int64_t groups = q.size(1) / k.size(1);
  const auto type = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const auto spread = [&](const at::Tensor& x) {
    return groups == 1 ? x.to(type) : x.to(type).repeat_interleave(groups, 1);
  };
  at::Tensor scores = at::matmul(q.to(type) * rule.scale, spread(k).transpose(-2, -1));
  constexpr double kClosed = -std::numeric_limits<double>::infinity();
  if (rule.causal) {
    const at::Tensor open = at::ones({q.size(2), k.size(2)}, q.options().dtype(at::kBool));
    scores = scores.masked_fill(open.tril(k.size(2) - q.size(2)).logical_not(), kClosed);
  }
  if (rule.key_valid.defined())
    scores = scores.masked_fill(rule.key_valid.logical_not().unsqueeze(1).unsqueeze(2), kClosed);
  return at::matmul(at::_safe_softmax(scores, -1), spread(v)).to(q.scalar_type());
}

}  // namespace formwork

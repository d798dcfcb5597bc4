#include "methods/mixer/linear_attention.h"

#include "kernels/matrix_state.h"

namespace formwork {
Tensor linear_attention(const LinearAttention& all) {
  const Tensor sum = at::matmul(all.k.transpose(-2, -1), all.v);
  const Tensor norm = at::matmul(all.q_norm, all.k_norm.sum(2).unsqueeze(-1));
  return at::matmul(all.q, sum) / (norm + all.eps);
}

Tensor causal_linear_attention(const LinearAttention& all, int64_t chunk, LinearSums* sums) {
  const Tensor numerator =
      matrix_state_scan({all.q, all.k, all.v, {}, sums ? &sums->sum : nullptr}, chunk);
  Tensor norms = all.k_norm.cumsum(2);
  if (sums) norms = norms + sums->norm.unsqueeze(2);
  const Tensor norm = (all.q_norm * norms).sum(-1, true);
  if (sums) sums->norm = norms.select(2, all.q.size(2) - 1).clone(at::MemoryFormat::Contiguous);
  return numerator / (norm + all.eps);
}

Tensor linear_attention_step(const LinearAttention& all, LinearSums& sums) {
  sums.sum.addcmul_(all.k.transpose(-2, -1), all.v);
  sums.norm.add_(all.k_norm.squeeze(2));
  const Tensor norm = (all.q_norm.squeeze(2) * sums.norm).sum(-1, true);
  return at::matmul(all.q, sums.sum) / (norm.unsqueeze(2) + all.eps);
}

}  // namespace formwork

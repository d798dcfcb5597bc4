#include "methods/mixer/linear_attention.h"

#include <algorithm>

namespace formwork {
namespace {

/// [B,H,N,W] → [B,H,C,chunk,W], zeros after the last token.
Tensor in_chunks(const Tensor& x, int64_t chunk) {
  const int64_t missing = (chunk - x.size(2) % chunk) % chunk;
  const Tensor whole = missing == 0 ? x : at::constant_pad_nd(x, {0, 0, 0, missing});
  return whole.unflatten(2, {whole.size(2) / chunk, chunk});
}

}  // namespace

Tensor linear_attention(const LinearAttention& all) {
  const Tensor sum = at::matmul(all.k.transpose(-2, -1), all.v);
  const Tensor norm = at::matmul(all.q_norm, all.k_norm.sum(2).unsqueeze(-1));
  return at::matmul(all.q, sum) / (norm + all.eps);
}

Tensor causal_products(const Tensor& all_q, const Tensor& all_k, const Tensor& all_v, int64_t chunk,
                       Tensor* sum) {
  const int64_t n = all_q.size(2);
  const int64_t size = std::max<int64_t>(1, std::min(chunk, n));
  if (size == n && !sum)  // one chunk, and nothing before or after it
    return at::matmul(at::matmul(all_q, all_k.transpose(-2, -1)).tril(), all_v);
  const Tensor q = in_chunks(all_q, size), k = in_chunks(all_k, size), v = in_chunks(all_v, size);
  const Tensor own = at::matmul(k.transpose(-2, -1), v);  // [B,H,C,K,V]
  Tensor through = own.cumsum(2);
  if (sum) through = through + sum->unsqueeze(2);
  const Tensor first = sum ? sum->unsqueeze(2) : at::zeros_like(own.narrow(2, 0, 1));
  const int64_t chunks = own.size(2);
  const Tensor before = chunks == 1 ? first : at::cat({first, through.narrow(2, 0, chunks - 1)}, 2);
  const Tensor inside = at::matmul(q, k.transpose(-2, -1)).tril();
  const Tensor y = at::matmul(inside, v) + at::matmul(q, before);
  // A copy, so that a state does not keep the sums after every chunk alive.
  if (sum) *sum = through.select(2, chunks - 1).clone(at::MemoryFormat::Contiguous);
  return y.flatten(2, 3).narrow(2, 0, n);
}

Tensor causal_linear_attention(const LinearAttention& all, int64_t chunk, LinearSums* sums) {
  const Tensor numerator = causal_products(all.q, all.k, all.v, chunk, sums ? &sums->sum : nullptr);
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

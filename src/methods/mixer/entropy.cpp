#include "methods/mixer/entropy.h"

#include <cmath>

namespace formwork {
namespace {

/// The bias as one more column of the map, for inputs with one more channel of ones.
Tensor with_bias(const Tensor& weight, const Tensor& bias) {
  return at::cat({weight, bias.unsqueeze(1)}, 1);
}

}  // namespace

Tensor attention_entropy(const Tensor& weights, double added) {
  const Tensor terms =
      added == 0.0 ? at::xlogy(weights, weights) : weights * at::log(weights + added);
  return terms.sum(-1).neg();
}

Tensor entropy_per_head(const Tensor& entropy, const Tensor& valid) {
  if (!valid.defined()) return entropy.mean(at::IntArrayRef{0, 2});
  const Tensor counted = valid.unsqueeze(1);
  const Tensor sum = entropy.masked_fill(counted.logical_not(), 0).sum(at::IntArrayRef{0, 2});
  return sum / valid.sum().clamp_min(1);
}

Tensor entropy_lower_bound(const Tensor& sigma, const Tensor& keys) {
  const Tensor others = keys.to(sigma.scalar_type()) - 1;
  const Tensor several = others > 0;
  const Tensor m = at::where(several, others, at::ones_like(others));
  const Tensor beta = at::exp(-sigma * at::sqrt((m + 1) / m));
  const Tensor mass = m * beta;
  // An infinite sigma leaves no entropy, where the product below would be infinity times 0.
  const Tensor second = at::where(beta > 0, sigma * at::sqrt((m + 1) * m) * beta, 0.0);
  const Tensor bound = at::log1p(mass) + second / (1 + mass);
  return at::where(several, bound, 0.0);
}

Tensor entropy_lower_bound(const Tensor& sigma, int64_t keys) {
  return entropy_lower_bound(sigma, at::full({}, keys, sigma.options()));
}

Tensor allowed_keys(const Tensor& logits, const Tensor& allowed) {
  if (!allowed.defined())
    return at::full(logits.sizes().slice(0, static_cast<size_t>(logits.dim()) - 1),
                    static_cast<double>(logits.size(-1)), logits.options());
  return allowed.expand_as(logits).sum(-1).clamp_min(1).to(logits.scalar_type());
}

Tensor centred_row_norm(const Tensor& logits, const Tensor& allowed) {
  if (!allowed.defined())
    return at::linalg_vector_norm(logits - logits.mean(-1, true), 2, at::IntArrayRef{-1});
  const Tensor closed = allowed.logical_not();
  const Tensor mean =
      logits.masked_fill(closed, 0).sum(-1, true) / allowed_keys(logits, allowed).unsqueeze(-1);
  return at::linalg_vector_norm((logits - mean).masked_fill(closed, 0), 2, at::IntArrayRef{-1});
}

Tensor spectral_norm(const Tensor& logits) {
  return at::linalg_svdvals(logits).select(-1, 0);
}

Tensor weight_norm_bound(const ScoreMaps& maps, const Tensor& x, int64_t heads) {
  Tensor query = maps.query, key = maps.key, input = x;
  if (maps.query_bias.defined() || maps.key_bias.defined()) {
    const Tensor none = at::zeros({query.size(0)}, query.options());
    query = with_bias(query, maps.query_bias.defined() ? maps.query_bias : none);
    key = with_bias(key, maps.key_bias.defined() ? maps.key_bias : none);
    input = at::cat({x, at::ones_like(x.narrow(-1, 0, 1))}, -1);
  }
  const double width = static_cast<double>(query.size(0) / heads);
  const Tensor q = query.unflatten(0, {heads, -1}), k = key.unflatten(0, {heads, -1});
  const Tensor of_maps = spectral_norm(at::matmul(q.transpose(1, 2), k));  // [H]
  const Tensor of_input = spectral_norm(input).square();                   // [B]
  return of_input.unsqueeze(1) * of_maps / std::sqrt(width);
}

}  // namespace formwork

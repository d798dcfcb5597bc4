// How spread out attention is, and how little its scores let it be: diagnostics of trained models.
// Zhai et al. 2023, arXiv 2303.06296.
#pragma once

#include <ATen/core/Tensor.h>

namespace formwork {

using at::Tensor;

/// -sum_j A_ij log A_ij of rows that sum to 1, in nats, with 0 log 0 = 0: [..., Nq, Nk] → [...,
/// Nq]. At most log Nk. `added` is added to A inside the logarithm, as the released speech code
/// does with 1e-6.
Tensor attention_entropy(const Tensor& weights, double added = 0.0);

/// The mean over rows and queries for each head, [B,H,Nq] → [H]; queries at which `valid` [B,Nq] is
/// false do not count.
Tensor entropy_per_head(const Tensor& entropy, const Tensor& valid = {});

/// The least entropy, in nats, of a softmax over `keys` logits a with |a - mean(a)|₂ <= sigma. With
/// T keys and beta = exp(-sigma sqrt(T/(T-1))) it is
///   log(1 + (T-1) beta) + sigma sqrt(T (T-1)) beta / (1 + (T-1) beta),
/// reached by one logit at sigma sqrt((T-1)/T) and all others alike. It falls with sigma, like
/// T sigma exp(-sigma) in the end, and is log T for 0; one key gives 0. `sigma` and `keys`
/// broadcast.
Tensor entropy_lower_bound(const Tensor& sigma, const Tensor& keys);
Tensor entropy_lower_bound(const Tensor& sigma, int64_t keys);

// Bounds on |a - mean(a)|₂ for it, the tightest first.

/// The length itself, row by row: logits [..., Nq, Nk] → [..., Nq]. Only pairs that `allowed`
/// (bool, broadcasts; undefined = all) opens count, both here and in the number of keys,
/// allowed_keys.
Tensor centred_row_norm(const Tensor& logits, const Tensor& allowed = {});
/// Open keys of every query: [..., Nq], at least 1, of the type of `logits`.
Tensor allowed_keys(const Tensor& logits, const Tensor& allowed);
/// The largest singular value of each matrix of logits: [..., Nq, Nk] → [...].
Tensor spectral_norm(const Tensor& logits);
/// |Wq_hᵀ Wk_h|₂ |X|₂² / sqrt(K), [B,H], from the maps [H·K, D] and the mixer's input x [B,N,D]:
/// for plain scores q·k/sqrt(K) without positions. Biases [H·K] may be undefined.
struct ScoreMaps {
  Tensor query, key;
  Tensor query_bias, key_bias;
};
Tensor weight_norm_bound(const ScoreMaps& maps, const Tensor& x, int64_t heads);

}  // namespace formwork

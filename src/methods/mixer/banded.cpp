#include "methods/mixer/banded.h"

#include <algorithm>
#include <cmath>

#include "kernels/attention.h"
#include "methods/mixer/attention.h"
#include "methods/position/position.h"

namespace formwork {
namespace {

/// x [B,H,N,K] with `before` and `after` zero tokens.
Tensor pad_tokens(const Tensor& x, int64_t before, int64_t after) {
  return before + after == 0 ? x : at::constant_pad_nd(x, {0, 0, before, after});
}

/// Which pairs of one block are open: [W,W'], or undefined where all are.
Tensor band_pairs(const Band& band, const Tensor& like) {
  if (!band.sliding && !band.causal) return {};
  const auto integers = like.options().dtype(at::kLong);
  const Tensor relative = at::arange(band.back + band.block + band.ahead, integers) - band.back -
                          at::arange(band.block, integers).unsqueeze(1);
  Tensor open = at::ones_like(relative, at::kBool);
  if (band.sliding) open = (relative >= -band.back).logical_and(relative <= band.ahead);
  return band.causal ? open.logical_and(relative <= 0) : open;
}

/// Which keys of each block are tokens: [B,C,W'] or [1,C,W'], or undefined where all are.
Tensor real_keys(const Band& band, int64_t n, const Tensor& valid, const Tensor& like) {
  const int64_t padded = (n + band.block - 1) / band.block * band.block;
  const bool padding_unseen = band.causal && band.back == 0 && band.ahead == 0;
  const bool no_edges = band.back + band.ahead == 0 && padded == n;
  if (!valid.defined() && (no_edges || padding_unseen)) return {};
  const Tensor real = valid.defined() ? valid : at::ones({1, n}, like.options().dtype(at::kBool));
  return at::constant_pad_nd(real, {band.back, padded - n + band.ahead})
      .unfold(1, band.back + band.block + band.ahead, band.block);
}

bool has_bias(const BandedScores& scores, const Tensor& like) {
  const Tensor one = scores.positions.narrow(-1, 0, 1);
  return scores.position->bias(one, one, like.scalar_type()).defined();
}

/// Whether the bias depends on key minus query only, for positions without gaps.
bool by_offset(const BandedScores& scores) {
  const Tensor steps = scores.positions.slice(-1, 1) - scores.positions.slice(-1, 0, -1);
  return scores.position->diagonals(1).defined() && (steps == 1).all().item<bool>();
}

Tensor bias_of_band(const Band& band, int64_t n, const BandedScores& scores, const Tensor& like) {
  const int64_t width = band.back + band.block + band.ahead;
  const int64_t padded = (n + band.block - 1) / band.block * band.block;
  const Tensor positions =
      scores.positions.dim() == 1 ? scores.positions.unsqueeze(0) : scores.positions;
  if (!has_bias(scores, like)) return {};
  if (by_offset(scores)) {
    // One block tells all: the bias depends on key minus query only.
    const Tensor key = at::arange(width, positions.options());
    return scores.position->bias(key.narrow(0, band.back, band.block), key, like.scalar_type());
  }
  // Places without a token repeat a real position: a mask hides them.
  const auto place = [&](int64_t from, int64_t to) {
    return at::arange(from, to, positions.options()).clamp(0, n - 1);
  };
  const Tensor query = positions.index_select(1, place(0, padded));
  const Tensor key = positions.index_select(1, place(-band.back, padded + band.ahead));
  return block_bias(*scores.position, query.unfold(1, band.block, band.block),
                    key.unfold(1, width, band.block), like.scalar_type());
}

/// The rule of the tiled kernel for a band that slides with its queries.
std::optional<AttentionRule> sliding_rule(const Tensor& q, const Tensor& k, const Band& band,
                                          const BandedScores& scores) {
  if (!band.sliding || !tiles_serve(q, k, scores.dropout)) return std::nullopt;
  AttentionRule rule;
  if (scores.position && has_bias(scores, q)) {
    if (!by_offset(scores)) return std::nullopt;
    rule.offset_bias = scores.position->diagonals(q.size(2), q.scalar_type());
  }
  rule.causal = band.causal;
  rule.scale = 1.0 / std::sqrt(static_cast<double>(q.size(-1)));
  rule.key_valid = scores.valid;
  rule.back = band.back;
  rule.ahead = band.ahead;
  return rule;
}

}  // namespace

Tensor open_pairs(const Band& band, int64_t n, const at::Device& device) {
  const Tensor key = at::arange(n, at::TensorOptions(at::kLong).device(device));
  const Tensor query = key.unsqueeze(1);
  const Tensor start = query.floor_divide(band.block) * band.block;
  const Tensor first = band.sliding ? query - band.back : start - band.back;
  const Tensor last = band.sliding ? query + band.ahead : start + (band.block - 1 + band.ahead);
  const Tensor near = (key >= first).logical_and(key <= last);
  return band.causal ? near.logical_and(key <= query) : near;
}

Band fitted(Band band, int64_t n) {
  n = std::max<int64_t>(n, 1);
  band.block = std::min(band.block, n);
  const int64_t farthest = band.sliding ? n - 1 : (n - 1) / band.block * band.block;
  band.back = std::min(band.back, farthest);
  band.ahead = std::min(band.ahead, farthest);
  return band;
}

Tensor block_bias(Position& position, const Tensor& query_positions, const Tensor& key_positions,
                  at::ScalarType type) {
  std::vector<Tensor> blocks;
  for (int64_t c = 0; c < query_positions.size(1); ++c) {
    const Tensor query = query_positions.select(1, c), key = key_positions.select(1, c);
    const Tensor bias = position.bias(query, key, type);
    if (!bias.defined()) return {};
    blocks.push_back(bias.dim() == 3 ? bias.unsqueeze(0) : bias);
  }
  return at::stack(blocks, 1);
}

Tensor block_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                       const BlockScores& scores) {
  if (scores.bias.defined()) {
    // A bias for every row and block would be as large as the scores: let it broadcast.
    Scores plain{scores.allowed, scores.bias, scores.causal, scores.dropout, {}};
    return at::matmul(attention_weights(q, k, plain), v);
  }
  const int64_t batch = q.size(0), blocks = q.size(1), heads = q.size(2);
  Scores fused{{}, {}, scores.causal, scores.dropout, {}};
  // A mask that is the same for all rows is kept once, by giving the rows to the heads.
  const bool rows_apart = !scores.allowed.defined() || scores.allowed.size(0) > 1;
  if (rows_apart) {
    if (scores.allowed.defined()) {
      Tensor allowed = scores.allowed;
      if (allowed.size(1) != blocks) allowed = allowed.expand({-1, blocks, -1, -1, -1});
      fused.allowed = allowed.flatten(0, 1);
    }
    const auto fold = [](const Tensor& x) { return x.flatten(0, 1); };
    return attend(fold(q), fold(k), fold(v), fused).unflatten(0, {batch, blocks});
  }
  fused.allowed = scores.allowed.squeeze(0);
  const auto fold = [](const Tensor& x) { return x.transpose(0, 1).flatten(1, 2); };
  return attend(fold(q), fold(k), fold(v), fused).unflatten(1, {batch, heads}).transpose(0, 1);
}

Tensor banded_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Band& wanted,
                        const BandedScores& scores) {
  const int64_t n = q.size(2);
  const Band band = fitted(wanted, n);
  if (const auto rule = sliding_rule(q, k, band, scores)) return attention(q, k, v, *rule);
  const int64_t blocks = (n + band.block - 1) / band.block;
  const int64_t missing = blocks * band.block - n;
  const auto own = [&](const Tensor& x) {
    return pad_tokens(x, 0, missing).unflatten(2, {blocks, band.block}).transpose(1, 2);
  };
  const auto neighbourhoods = [&](const Tensor& x) {
    if (band.back + band.ahead == 0) return own(x);  // no overlaps whose gradients are to be added
    return pad_tokens(x, band.back, missing + band.ahead)
        .unfold(2, band.back + band.block + band.ahead, band.block)
        .permute({0, 2, 1, 4, 3});
  };
  BlockScores block;
  block.dropout = scores.dropout;
  const Tensor real = real_keys(band, n, scores.valid, q);
  block.causal = band.causal && band.back == 0 && !band.sliding;
  if (!block.causal) block.allowed = band_pairs(band, q);
  if (real.defined()) {
    const Tensor open = real.unsqueeze(2).unsqueeze(3);
    block.allowed = block.allowed.defined() ? block.allowed.logical_and(open) : open;
  } else if (block.allowed.defined()) {
    block.allowed = block.allowed.expand({1, 1, 1, -1, -1});
  }
  if (scores.position) block.bias = bias_of_band(band, n, scores, q);
  const Tensor y = block_attention(own(q), neighbourhoods(k), neighbourhoods(v), block);
  return y.transpose(1, 2).flatten(2, 3).narrow(2, 0, n);
}

}  // namespace formwork

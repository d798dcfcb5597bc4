// Softmax attention to the neighbourhood of each query, block by block.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

namespace formwork {

using at::Tensor;
class Position;

/// Queries in blocks of `block` see the keys from `back` tokens before their block to `ahead`
/// tokens after it; of these a sliding window keeps -back <= key - query <= ahead, and a causal one
/// key <= query.
struct Band {
  int64_t block = 1;
  int64_t back = 0, ahead = 0;
  bool sliding = false;
  bool causal = false;
};

/// The pairs [N,N] (query, key) that the band leaves open, for observers.
Tensor open_pairs(const Band& band, int64_t n, const at::Device& device);

/// The same band for n tokens without blocks or neighbours that hold no token.
Band fitted(Band band, int64_t n);

/// What else the scores of a banded attention need.
struct BandedScores {
  Tensor valid;      // keys [B,N] bool; undefined = all
  Tensor positions;  // [N] or [B,N], for the position's bias
  std::shared_ptr<Position> position;
  double dropout = 0.0;
};

/// q,k,v [B,H,N,K] → [B,H,N,K]; a query without a key gives 0. Memory O(N (back+block+ahead)).
Tensor banded_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Band& band,
                        const BandedScores& scores);

/// The same for blocks that are there already: q [B,C,H,W,K], k,v [B,C,H,W',K], `allowed`
/// broadcasts to [B,C,1,W,W'], `bias` to [B,C,H,W,W'].
struct BlockScores {
  Tensor allowed, bias;
  bool causal = false;
  double dropout = 0.0;
};
Tensor block_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                       const BlockScores& scores);

/// The position's bias for every block: query positions [.,C,W] and key positions [.,C,W'] →
/// [.,C,H,W,W'], or undefined. The leading dimension is B or 1.
Tensor block_bias(Position& position, const Tensor& query_positions, const Tensor& key_positions,
                  at::ScalarType type);

}  // namespace formwork

// Softmax attention of one tile of queries and one tile of keys, for every instruction set.
#pragma once

#include <cstdint>

namespace formwork {

/// Most queries and keys of a tile.
constexpr int64_t kTile = 64;
/// Rows that products write or read side by side are as long as a multiple of this.
constexpr int64_t kWidthUnit = 16;

/// Query r of a tile sees key c of a tile where low <= c - r <= high; both within ±kTile.
struct Band {
  int64_t low = -kTile, high = kTile;
};

/// A tile of queries and, in the backward pass, of the gradient of their outputs. "Across" means
/// [channels][kTile], zeros beyond `count`.
struct QueryTile {
  int64_t count = 0;
  int64_t width = 0;              // K
  int64_t value_width = 0;        // V
  const float* across = nullptr;  // K channels, times scale · log2(e): softmax by powers of two
  const float* rows = nullptr;    // [count][K rounded up]; backward only, as what follows
  const float* gradient_across = nullptr;  // V channels
  const float* gradient_rows = nullptr;    // [count][V rounded up]
  const float* log_sum = nullptr;          // [kTile], in base 2; +infinity without key or query
  const float* inner = nullptr;            // [kTile]: Σ out · gradient
};

/// A tile of keys with their values, and what the queries at hand see of it.
struct KeyTile {
  int64_t count = 0;
  const float* keys = nullptr;  // [count] rows of K; rounded up in the backward pass
  int64_t key_stride = 0;
  const float* values = nullptr;  // [count] rows of V; rounded up in the forward pass
  int64_t value_stride = 0;
  Band band;
  const bool* open = nullptr;    // [count]; null: every key may be seen
  const float* added = nullptr;  // [count] rows of kTile queries: log2(e) · bias; null: none
  int64_t added_stride = 0;
};

/// The softmax of a tile of queries over the keys met so far.
struct RunningSoftmax {
  float most[kTile], total[kTile];  // largest score, in base 2, and Σ 2^(score - most)
  float* out;                       // [count][V rounded up]: Σ 2^(score - most) · value
};

struct BackwardTile {
  float* query_gradient;  // [count][K rounded up], of the scores' unscaled products; added to
  float* key_gradient;    // [keys][K rounded up], likewise
  float* value_gradient;  // [keys][V rounded up], added to
  float* weights;         // kTile · kTile of scratch
  float* score_gradient;  // [keys][kTile]: written, 0 at closed pairs
};

struct AttentionTiles {
  const char* name;
  /// Rows [count][channels] → [channels][kTile], times `factor`, zeros beyond `count`.
  void (*lay_across)(const float* rows, int64_t stride, int64_t count, int64_t channels,
                     float factor, float* to);
  /// The running softmax goes on with one more tile of keys. `scores` is kTile · kTile of scratch.
  void (*forward)(const QueryTile& queries, const KeyTile& keys, RunningSoftmax& softmax,
                  float* scores);
  /// Outputs in place, and ln Σ e^score [count]: -infinity, and outputs of 0, for a query without
  /// a key.
  void (*finish)(const QueryTile& queries, RunningSoftmax& softmax, float* log_sum);
  void (*backward)(const QueryTile& queries, const KeyTile& keys, const BackwardTile& to);
  /// to[r][c] += gradient[c][r], the gradient of a dense bias.
  void (*add_dense)(const float* score_gradient, int64_t queries, int64_t keys, float* to,
                    int64_t stride);
  /// to[r - c + keys - 1] += gradient[c][r], the gradient of a bias by offset.
  void (*add_offsets)(const float* score_gradient, int64_t queries, int64_t keys, double* to);
};

}  // namespace formwork

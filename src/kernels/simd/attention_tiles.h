// Softmax attention of one tile of queries over packed keys and values, for every instruction set.
#pragma once

#include <cstdint>

namespace formwork {

/// Queries and keys of a tile.
constexpr int64_t kTile = 64;
/// Widths of packed rows are multiples of this.
constexpr int64_t kWidthUnit = 16;

/// The keys and values of one head, packed: tiles of kTile keys, the last one filled up with zeros.
struct PackedKeys {
  int64_t keys = 0;         // real ones
  int64_t width = 0;        // K, channels of queries and keys
  int64_t row_width = 0;    // K rounded up to kWidthUnit
  int64_t value_width = 0;  // V
  int64_t value_row_width = 0;
  const float* keys_across = nullptr;    // [tiles][K][kTile]
  const float* key_rows = nullptr;       // [tiles·kTile][row_width]; backward only
  const float* value_rows = nullptr;     // [tiles·kTile][value_row_width]; forward only
  const float* values_across = nullptr;  // [tiles][V][kTile]; backward only
  const float* shut = nullptr;           // [tiles·kTile]: 0, or -infinity where nobody may look
  const uint8_t* any_shut = nullptr;     // [tiles]: whether `shut` matters there
};

/// A tile of queries, scaled by scale · log2(e), so that softmax is a power of two.
struct QueryTile {
  const float* rows = nullptr;  // [count][row_width]
  int64_t count = 0;
  int64_t last_key = -1;  // causal: row r sees keys up to last_key + r; -1 - count or less is none
  bool causal = false;
};

struct AttentionTiles {
  const char* name;
  /// out [count][value_row_width] and the base-2 logarithm of the sum of weights [count], +infinity
  /// for a query without a key (its output is 0). `scores` holds kTile·kTile floats.
  void (*forward)(const PackedKeys& keys, const QueryTile& queries, float* out, float* log_sum,
                  float* scores);
  /// Adds to the gradients of keys (in units of the scaled queries) and values [tiles·kTile rows],
  /// writes that of the queries [count][row_width], still to be multiplied by `scale`.
  /// `out` and its `gradient` [count][value_row_width]. `weights` and `slopes` hold kTile·kTile
  /// floats each.
  void (*backward)(const PackedKeys& keys, const QueryTile& queries, const float* gradient,
                   const float* out, const float* log_sum, float* query_gradient,
                   float* key_gradient, float* value_gradient, float* weights, float* slopes);
};

}  // namespace formwork

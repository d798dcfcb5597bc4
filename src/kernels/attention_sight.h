// What a tile of queries sees of each tile of keys.
#pragma once

#include "kernels/attention.h"
#include "kernels/scratch.h"
#include "kernels/simd/attention_tiles.h"

namespace formwork::cpu {

/// Sizes of q [B,H,Nq,K], k [B,Hkv,Nk,K], v [B,Hkv,Nk,V]; the padded ones are multiples of
/// kWidthUnit.
struct AttentionSizes {
  int64_t batch, heads, kv_heads, queries, keys, width, value_width;
  int64_t padded_width, padded_value_width, query_tiles;

  AttentionSizes(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);
  int64_t group() const { return heads / kv_heads; }
};

/// A rule read tile by tile. One for all threads: what a thread needs of its own is a Spot.
class Sight {
 public:
  Sight(const AttentionSizes& sizes, const AttentionRule& rule, const AttentionTiles& tiles);

  /// A tile of queries of a head and the memory in which biases are put together.
  struct Spot {
    int64_t batch = 0, head = 0, first = 0, count = 0;
    Scratch added{kTile * kTile};
  };
  /// First and one past the last key that some of these queries may see.
  struct Range {
    int64_t begin, end;
  };
  Range range(int64_t first_query, int64_t queries) const;
  /// The tile of keys from `first_key`, a multiple of kTile, on: all but where keys and values lie;
  /// of no keys where all blocks are closed.
  KeyTile look(const Spot& spot, int64_t first_key) const;

  /// Adds biases, in base 2, to the scores of one query and keys `first_key` .. + count - 1, and
  /// closes those it may not see.
  void judge(int64_t b, int64_t h, int64_t query, int64_t first_key, int64_t count,
             float* scores) const;

  /// Where the gradient of the bias by offset of such a pair of tiles begins: what add_offsets
  /// adds to lies in the order of `offsets_`.
  int64_t first_offset(const Spot& spot, const KeyTile& tile, int64_t first_key) const {
    return sizes_.keys - tile.count - first_key + spot.first;
  }

 private:
  enum class Blocks { open, closed, mixed };
  bool open_block(int64_t h, int64_t query, int64_t key) const;
  Blocks blocks(const Spot& spot, int64_t first_key, int64_t count) const;
  /// Biases of a tile side by side, -infinity where a block is closed.
  void put_together(const Spot& spot, int64_t first_key, int64_t count, const float* offsets,
                    bool mixed) const;

  const AttentionSizes& sizes_;
  const AttentionRule& rule_;
  const AttentionTiles& tiles_;
  int64_t back_, ahead_;
  at::Tensor offsets_;  // [1,H|1,Nq+Nk-1+kTile]: log2(e) · offset_bias, the last key's first
};

}  // namespace formwork::cpu

#include "kernels/attention_sight.h"

#include <algorithm>
#include <limits>

namespace formwork::cpu {
namespace {

constexpr float kLog2E = 1.44269504f;
constexpr float kClosed = -std::numeric_limits<float>::infinity();

int64_t padded(int64_t width) {
  return (width + kWidthUnit - 1) / kWidthUnit * kWidthUnit;
}

/// Where the numbers of a batch entry and head begin in [B|1,H|1,...].
const float* of_head(const at::Tensor& x, int64_t b, int64_t h) {
  return x.data_ptr<float>() + (x.size(0) == 1 ? 0 : b * x.stride(0)) +
         (x.size(1) == 1 ? 0 : h * x.stride(1));
}

int64_t within_tile(int64_t offset) {
  return std::clamp(offset, -kTile, kTile);
}

}  // namespace

AttentionSizes::AttentionSizes(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v)
    : batch(q.size(0)),
      heads(q.size(1)),
      kv_heads(k.size(1)),
      queries(q.size(2)),
      keys(k.size(2)),
      width(q.size(3)),
      value_width(v.size(3)),
      padded_width(padded(width)),
      padded_value_width(padded(value_width)),
      query_tiles((queries + kTile - 1) / kTile) {}

Sight::Sight(const AttentionSizes& sizes, const AttentionRule& rule, const AttentionTiles& tiles)
    : sizes_(sizes), rule_(rule), tiles_(tiles) {
  const int64_t everything = sizes.queries + sizes.keys;
  back_ = std::clamp(rule.back.value_or(everything), -everything, everything);
  ahead_ = std::clamp(rule.ahead.value_or(everything), -everything, everything);
  if (rule.causal) ahead_ = std::min<int64_t>(ahead_, 0);
  if (rule.offset_bias.defined())
    offsets_ = at::constant_pad_nd(rule.offset_bias.flip(-1) * kLog2E, {0, kTile}).unsqueeze(0);
}

Sight::Range Sight::range(int64_t first_query, int64_t queries) const {
  const int64_t place = first_query + sizes_.keys - sizes_.queries;
  return {std::max<int64_t>(0, place - back_), std::min(sizes_.keys, place + queries + ahead_)};
}

void Sight::judge(int64_t b, int64_t h, int64_t query, int64_t first_key, int64_t count,
                  float* scores) const {
  if (rule_.bias.defined()) {
    const float* bias = of_head(rule_.bias, b, h) + query * rule_.bias.stride(2) + first_key;
    for (int64_t c = 0; c < count; ++c) scores[c] += bias[c] * kLog2E;
  }
  if (offsets_.defined()) {
    const float* offsets = of_head(offsets_, 0, h) + sizes_.keys - 1 - first_key + query;
    for (int64_t c = 0; c < count; ++c) scores[c] += offsets[-c];
  }
  if (rule_.key_valid.defined()) {
    const bool* open = rule_.key_valid.data_ptr<bool>() + b * sizes_.keys + first_key;
    for (int64_t c = 0; c < count; ++c)
      if (!open[c]) scores[c] = kClosed;
  }
  if (rule_.open_blocks.defined()) {
    for (int64_t c = 0; c < count; ++c)
      if (!open_block(h, query, first_key + c)) scores[c] = kClosed;
  }
  const Range seen = range(query, 1);
  const int64_t begin = std::clamp<int64_t>(seen.begin - first_key, 0, count);
  const int64_t end = std::clamp<int64_t>(seen.end - first_key, begin, count);
  std::fill(scores, scores + begin, kClosed);
  std::fill(scores + end, scores + count, kClosed);
}

bool Sight::open_block(int64_t h, int64_t query, int64_t key) const {
  const at::Tensor& blocks = rule_.open_blocks;
  const int64_t head = blocks.size(0) == 1 ? 0 : h;
  return blocks.data_ptr<bool>()[(head * blocks.size(1) + query / rule_.block) * blocks.size(2) +
                                 key / rule_.block];
}

Sight::Blocks Sight::blocks(const Spot& spot, int64_t first_key, int64_t count) const {
  if (!rule_.open_blocks.defined()) return Blocks::open;
  const int64_t block = rule_.block;
  bool open = false, closed = false;
  // From block to block; the first of each may begin before the tile.
  for (int64_t r = spot.first; r < spot.first + spot.count; r = (r / block + 1) * block)
    for (int64_t c = first_key; c < first_key + count; c = (c / block + 1) * block)
      (open_block(spot.head, r, c) ? open : closed) = true;
  return open && closed ? Blocks::mixed : open ? Blocks::open : Blocks::closed;
}

void Sight::put_together(const Spot& spot, int64_t first_key, int64_t count, const float* offsets,
                         bool mixed) const {
  float* added = spot.added.data();
  if (rule_.bias.defined()) {
    const int64_t stride = rule_.bias.stride(2);
    tiles_.lay_across(of_head(rule_.bias, spot.batch, spot.head) + spot.first * stride + first_key,
                      stride, spot.count, count, kLog2E, added);
  } else {
    std::fill_n(added, count * kTile, 0.0f);
  }
  for (int64_t c = 0; offsets && c < count; ++c)
    for (int64_t r = 0; r < spot.count; ++r) added[c * kTile + r] += offsets[r - c];
  for (int64_t c = 0; mixed && c < count; ++c)
    for (int64_t r = 0; r < spot.count; ++r)
      if (!open_block(spot.head, spot.first + r, first_key + c)) added[c * kTile + r] = kClosed;
}

KeyTile Sight::look(const Spot& spot, int64_t first_key) const {
  KeyTile tile;
  const int64_t count = std::min(kTile, sizes_.keys - first_key);
  const Blocks blocks_here = blocks(spot, first_key, count);
  if (blocks_here == Blocks::closed) return tile;
  tile.count = count;
  const int64_t place = spot.first + sizes_.keys - sizes_.queries - first_key;
  tile.band = {within_tile(place - back_), within_tile(place + ahead_)};
  if (rule_.key_valid.defined()) {
    const bool* open = rule_.key_valid.data_ptr<bool>() + spot.batch * sizes_.keys + first_key;
    if (std::find(open, open + tile.count, false) != open + tile.count) tile.open = open;
  }
  const float* offsets = nullptr;
  if (offsets_.defined())
    offsets = of_head(offsets_, 0, spot.head) + sizes_.keys - 1 - first_key + spot.first;
  if (rule_.bias.defined() || blocks_here == Blocks::mixed) {
    put_together(spot, first_key, tile.count, offsets, blocks_here == Blocks::mixed);
    tile.added = spot.added.data();
    tile.added_stride = kTile;
  } else if (offsets) {
    tile.added = offsets;
    tile.added_stride = -1;
  }
  return tile;
}

}  // namespace formwork::cpu

#include "kernels/simd/attention_tiles.h"

#include <limits>

#include "kernels/simd/vector.h"

namespace formwork::FORMWORK_SIMD {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

/// Tiles of keys that the last query of the tile still sees.
int64_t tiles_seen(const PackedKeys& keys, const QueryTile& q) {
  int64_t seen = keys.keys;
  if (q.causal) {
    const int64_t last = q.last_key + q.count;  // one past the last query's last key
    seen = last < seen ? last : seen;
  }
  return seen <= 0 ? 0 : (seen + kTile - 1) / kTile;
}

/// scores [count][kTile] of key tile `tile`, -infinity where a pair is closed.
void tile_scores(const PackedKeys& keys, const QueryTile& q, int64_t tile, float* scores) {
  product<Into::set>({q.rows, keys.row_width, 1}, keys.keys_across + tile * keys.width * kTile,
                     kTile, scores, kTile, q.count, kTile, keys.width);
  const int64_t first = tile * kTile;
  if (keys.any_shut[tile]) {
    const float* shut = keys.shut + first;
    for (int64_t r = 0; r < q.count; ++r)
      for (int64_t c = 0; c < kTile; c += kLanes)
        store(scores + r * kTile + c, load(scores + r * kTile + c) + load(shut + c));
  }
  if (!q.causal || q.last_key >= first + kTile - 1) return;
  for (int64_t r = 0; r < q.count; ++r) {
    const int64_t open = q.last_key + r - first + 1;
    for (int64_t c = open < 0 ? 0 : open; c < kTile; ++c) scores[r * kTile + c] = kNothing;
  }
}

float exp2_of(float x) {
  return exp2_of_negative(all(x))[0];
}

/// log2 by its own series would be no faster: it runs once a query.
float log2_of(float x) {
  return __builtin_log2f(x);
}

/// One row of the running softmax: scores become weights, the sum so far and `out` follow the new
/// maximum.
void soften(float* scores, float& most, float& total, float* out, int64_t width) {
  Vector high = load(scores);
  for (int64_t c = kLanes; c < kTile; c += kLanes) high = larger(high, load(scores + c));
  const float seen = largest(high);
  const float next = seen > most ? seen : most;
  const float base = next == kNothing ? 0.0f : next;  // -infinity - -infinity is no number
  Vector sums{};
  for (int64_t c = 0; c < kTile; c += kLanes) {
    const Vector weight = exp2_of_negative(load(scores + c) - base);
    store(scores + c, weight);
    sums += weight;
  }
  if (next > most) {
    const float fade = exp2_of(most - base);
    total *= fade;
    for (int64_t c = 0; c < width; c += kLanes) store(out + c, load(out + c) * fade);
    most = next;
  }
  total += sum(sums);
}

void forward(const PackedKeys& keys, const QueryTile& q, float* out, float* log_sum,
             float* scores) {
  const int64_t width = keys.value_row_width;
  float most[kTile], total[kTile];
  for (int64_t r = 0; r < q.count; ++r) {
    most[r] = kNothing;
    total[r] = 0.0f;
  }
  std::memset(out, 0, sizeof(float) * static_cast<size_t>(q.count * width));
  const int64_t tiles = tiles_seen(keys, q);
  for (int64_t tile = 0; tile < tiles; ++tile) {
    tile_scores(keys, q, tile, scores);
    for (int64_t r = 0; r < q.count; ++r)
      soften(scores + r * kTile, most[r], total[r], out + r * width, width);
    product<Into::add>({scores, kTile, 1}, keys.value_rows + tile * kTile * width, width, out,
                       width, q.count, width, kTile);
  }
  for (int64_t r = 0; r < q.count; ++r) {
    const bool some = total[r] > 0.0f;
    const float factor = some ? 1.0f / total[r] : 0.0f;
    for (int64_t c = 0; c < width; c += kLanes)
      store(out + r * width + c, load(out + r * width + c) * factor);
    log_sum[r] = some ? most[r] + log2_of(total[r]) : -kNothing;
  }
}

/// scores → weights, and slopes (now the gradient of the weights) → the gradient of the scores.
void differentiate(int64_t count, const float* log_sum, const float* inner, float* weights,
                   float* slopes) {
  for (int64_t r = 0; r < count; ++r) {
    float* weight = weights + r * kTile;
    float* slope = slopes + r * kTile;
    for (int64_t c = 0; c < kTile; c += kLanes) {
      const Vector p = exp2_of_negative(load(weight + c) - log_sum[r]);
      store(weight + c, p);
      store(slope + c, p * (load(slope + c) - inner[r]));
    }
  }
}

/// Σ a·b over `width`, a multiple of kWidthUnit.
float inner_product(const float* a, const float* b, int64_t width) {
  Vector sums{};
  for (int64_t c = 0; c < width; c += kLanes) sums += load(a + c) * load(b + c);
  return sum(sums);
}

void backward(const PackedKeys& keys, const QueryTile& q, const float* gradient, const float* out,
              const float* log_sum, float* query_gradient, float* key_gradient,
              float* value_gradient, float* weights, float* slopes) {
  const int64_t width = keys.row_width, value_width = keys.value_row_width;
  float inner[kTile];
  for (int64_t r = 0; r < q.count; ++r)
    inner[r] = inner_product(out + r * value_width, gradient + r * value_width, value_width);
  std::memset(query_gradient, 0, sizeof(float) * static_cast<size_t>(q.count * width));
  const int64_t tiles = tiles_seen(keys, q);
  for (int64_t tile = 0; tile < tiles; ++tile) {
    tile_scores(keys, q, tile, weights);
    product<Into::set>({gradient, value_width, 1},
                       keys.values_across + tile * keys.value_width * kTile, kTile, slopes, kTile,
                       q.count, kTile, keys.value_width);
    differentiate(q.count, log_sum, inner, weights, slopes);
    product<Into::add>({weights, 1, kTile}, gradient, value_width,
                       value_gradient + tile * kTile * value_width, value_width, kTile, value_width,
                       q.count);
    product<Into::add>({slopes, 1, kTile}, q.rows, width, key_gradient + tile * kTile * width,
                       width, kTile, width, q.count);
    product<Into::add>({slopes, kTile, 1}, keys.key_rows + tile * kTile * width, width,
                       query_gradient, width, q.count, width, kTile);
  }
}

}  // namespace

extern const AttentionTiles kAttentionTiles;
const AttentionTiles kAttentionTiles{FORMWORK_SIMD_NAME, forward, backward};

}  // namespace formwork::FORMWORK_SIMD

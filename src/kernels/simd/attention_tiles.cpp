// Scores lie as [keys][queries]: a lane of a vector is a query, so softmax needs no sums within
// vectors, and keys and values are used as they lie in memory.
#include "kernels/simd/attention_tiles.h"

#include <limits>

#include "kernels/simd/square.h"
#include "kernels/simd/tile_products.h"

namespace formwork::FORMWORK_SIMD {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();
constexpr float kLnOf2 = 0.693147181f;

int64_t round_up(int64_t n, int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

/// Keys that a query sees, and queries that see a key.
Reach keys_of_query(const KeyTile& k) {
  return {k.band.low, k.band.high, k.count};
}
Reach queries_of_key(const KeyTile& k, int64_t limit) {
  return {-k.band.high, -k.band.low, limit};
}

/// Writes `value` at the pairs that are closed by the band or for everybody.
void close_pairs(const QueryTile& q, const KeyTile& k, float value, float* pairs) {
  const int64_t queries = round_up(q.count, kWidthUnit);
  const Reach reach = queries_of_key(k, queries);
  if (!k.open && reach.first <= 1 - k.count && reach.last >= queries - 1) return;
  for (int64_t c = 0; c < k.count; ++c) {
    float* row = pairs + c * kTile;
    const bool any = !k.open || k.open[c];
    const int64_t begin = any ? reach.begin(c) : queries, end = any ? reach.end(c) : queries;
    for (int64_t r = 0; r < begin && r < queries; ++r) row[r] = value;
    for (int64_t r = end > 0 ? end : 0; r < queries; ++r) row[r] = value;
  }
}

/// Scores become weights; the maximum, the sum and `out` follow.
void soften(const QueryTile& q, const KeyTile& k, RunningSoftmax& softmax, float* scores) {
  const Reach reach = keys_of_query(k);
  float fade[kTile];
  for (int64_t r = 0; r < q.count; r += kLanes) {
    const int64_t begin = reach.begin(r), end = reach.end(r + kLanes - 1);
    Vector high = all(kNothing), sums{};
    for (int64_t c = begin; c < end; ++c) high = larger(high, load(scores + c * kTile + r));
    const Vector before = load(softmax.most + r);
    const Vector most = larger(before, high);
    const Vector base = most > kNothing ? most : Vector{};  // -infinity - -infinity is no number
    for (int64_t c = begin; c < end; ++c) {
      const Vector weight = exp2_of_negative(load(scores + c * kTile + r) - base);
      store(scores + c * kTile + r, weight);
      sums += weight;
    }
    for (int64_t c = 0; c < begin && c < k.count; ++c) store(scores + c * kTile + r, Vector{});
    for (int64_t c = end > 0 ? end : 0; c < k.count; ++c) store(scores + c * kTile + r, Vector{});
    const Vector factor = exp2_of_negative(before - base);
    store(fade + r, factor);
    store(softmax.most + r, most);
    store(softmax.total + r, load(softmax.total + r) * factor + sums);
  }
  const int64_t width = round_up(q.value_width, kWidthUnit);
  for (int64_t r = 0; r < q.count; ++r) {
    if (fade[r] == 1.0f) continue;
    float* out = softmax.out + r * width;
    for (int64_t c = 0; c < width; c += kLanes) store(out + c, load(out + c) * fade[r]);
  }
}

/// For `take`: adds sums to rows of `to`.
auto add_to(float* to, int64_t stride) {
  return [=](int64_t row, int64_t column, Vector sums) {
    float* place = to + row * stride + column;
    store(place, load(place) + sums);
  };
}

void forward(const QueryTile& q, const KeyTile& k, RunningSoftmax& softmax, float* scores) {
  const int64_t queries = round_up(q.count, kWidthUnit);
  const int64_t width = round_up(q.value_width, kWidthUnit);
  const Left keys{k.keys, k.key_stride, 1};
  const Right across{q.across, kTile};
  const Shape pairs{k.count, queries, q.width};
  const Reach reach = queries_of_key(k, queries);
  if (k.added)
    product<Limits::columns>(keys, across, pairs, reach, [=](int64_t c, int64_t r, Vector sums) {
      store(scores + c * kTile + r, sums + load(k.added + c * k.added_stride + r));
    });
  else
    product<Limits::columns>(keys, across, pairs, reach, [=](int64_t c, int64_t r, Vector sums) {
      store(scores + c * kTile + r, sums);
    });
  close_pairs(q, k, kNothing, scores);
  soften(q, k, softmax, scores);
  product<Limits::terms>({scores, 1, kTile}, {k.values, k.value_stride}, {q.count, width, k.count},
                         keys_of_query(k), add_to(softmax.out, width));
}

void finish(const QueryTile& q, RunningSoftmax& softmax, float* log_sum) {
  const int64_t width = round_up(q.value_width, kWidthUnit);
  for (int64_t r = 0; r < q.count; ++r) {
    const float total = softmax.total[r];
    const float factor = total > 0.0f ? 1.0f / total : 0.0f;
    float* out = softmax.out + r * width;
    for (int64_t c = 0; c < width; c += kLanes) store(out + c, load(out + c) * factor);
    log_sum[r] = total > 0.0f ? kLnOf2 * (softmax.most[r] + __builtin_log2f(total)) : kNothing;
  }
}

void backward(const QueryTile& q, const KeyTile& k, const BackwardTile& to) {
  const int64_t queries = round_up(q.count, kWidthUnit);
  const int64_t width = round_up(q.width, kWidthUnit);
  const int64_t value_width = round_up(q.value_width, kWidthUnit);
  const Reach reach = queries_of_key(k, queries);
  float* weights = to.weights;
  float* slopes = to.score_gradient;
  const Left keys{k.keys, k.key_stride, 1};
  const Right across{q.across, kTile};
  const Shape pairs{k.count, queries, q.width};
  const float* log_sum = q.log_sum;
  if (k.added)
    product<Limits::columns>(keys, across, pairs, reach, [=](int64_t c, int64_t r, Vector sums) {
      const Vector score = sums + load(k.added + c * k.added_stride + r);
      store(weights + c * kTile + r, exp2_of_negative(score - load(log_sum + r)));
    });
  else
    product<Limits::columns>(keys, across, pairs, reach, [=](int64_t c, int64_t r, Vector sums) {
      store(weights + c * kTile + r, exp2_of_negative(sums - load(log_sum + r)));
    });
  close_pairs(q, k, 0.0f, weights);
  product<Limits::columns>({k.values, k.value_stride, 1}, {q.gradient_across, kTile},
                           {k.count, queries, q.value_width}, reach,
                           [=, inner = q.inner](int64_t c, int64_t r, Vector sums) {
                             const Vector weight = load(weights + c * kTile + r);
                             store(slopes + c * kTile + r, weight * (sums - load(inner + r)));
                           });
  close_pairs(q, k, 0.0f, slopes);
  const Reach terms = queries_of_key(k, q.count);
  product<Limits::terms>({weights, kTile, 1}, {q.gradient_rows, value_width},
                         {k.count, value_width, q.count}, terms,
                         add_to(to.value_gradient, value_width));
  product<Limits::terms>({slopes, kTile, 1}, {q.rows, width}, {k.count, width, q.count}, terms,
                         add_to(to.key_gradient, width));
  product<Limits::terms>({slopes, 1, kTile}, {k.keys, k.key_stride}, {q.count, width, k.count},
                         keys_of_query(k), add_to(to.query_gradient, width));
}

/// Rows r .. r+3 and channels c .. c+3 of lay_across, of which only `count` and `channels` are
/// there.
inline __attribute__((always_inline)) void lay_square(const float* rows, int64_t stride,
                                                      int64_t count, int64_t channels, float factor,
                                                      float* to) {
  Square square{};
  for (int64_t i = 0; i < count; ++i)
    std::memcpy(&square.rows[i], rows + i * stride, sizeof(float) * static_cast<size_t>(channels));
  square.transpose();
  for (int64_t i = 0; i < channels; ++i) {
    const Four column = square.rows[i] * factor;
    std::memcpy(to + i * kTile, &column, sizeof(column));
  }
}

void lay_across(const float* rows, int64_t stride, int64_t count, int64_t channels, float factor,
                float* to) {
  for (int64_t r = 0; r < kTile; r += 4) {
    const float* four = rows + r * stride;
    const int64_t there = count - r < 0 ? 0 : count - r < 4 ? count - r : 4;
    int64_t c = 0;
    for (; there == 4 && c + 4 <= channels; c += 4)
      lay_square(four + c, stride, 4, 4, factor, to + c * kTile + r);
    for (; c < channels; c += 4)
      lay_square(four + c, stride, there, channels - c < 4 ? channels - c : 4, factor,
                 to + c * kTile + r);
  }
}

void add_dense(const float* gradient, int64_t queries, int64_t keys, float* to, int64_t stride) {
  for (int64_t r = 0; r < queries; r += 4) {
    const int64_t rows = queries - r < 4 ? queries - r : 4;
    int64_t c = 0;
    for (; c + 4 <= keys; c += 4) {
      Square square;
      for (int64_t i = 0; i < 4; ++i)
        std::memcpy(&square.rows[i], gradient + (c + i) * kTile + r, sizeof(Four));
      square.transpose();
      for (int64_t i = 0; i < rows; ++i) {
        Four sums;
        float* place = to + (r + i) * stride + c;
        std::memcpy(&sums, place, sizeof(sums));
        sums += square.rows[i];
        std::memcpy(place, &sums, sizeof(sums));
      }
    }
    for (; c < keys; ++c)
      for (int64_t i = 0; i < rows; ++i) to[(r + i) * stride + c] += gradient[c * kTile + r + i];
  }
}

void add_offsets(const float* gradient, int64_t queries, int64_t keys, double* to) {
  float sums[2 * kTile] = {};
  for (int64_t c = 0; c < keys; ++c)
    for (int64_t r = 0; r < queries; ++r) sums[keys - 1 - c + r] += gradient[c * kTile + r];
  for (int64_t i = 0; i < queries + keys - 1; ++i) to[i] += static_cast<double>(sums[i]);
}

}  // namespace

extern const AttentionTiles kAttentionTiles;
const AttentionTiles kAttentionTiles{FORMWORK_SIMD_NAME, lay_across, forward,    finish,
                                     backward,           add_dense,  add_offsets};

}  // namespace formwork::FORMWORK_SIMD

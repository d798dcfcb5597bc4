#include "kernels/attention_stream.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/rows.h"
#include "kernels/simd_levels.h"
#include "kernels/turns.h"

namespace formwork::cpu {
namespace {

using at::Tensor;

constexpr int64_t kMostRows = 8;  // queries of all heads that share keys
constexpr int64_t kChunk = 512;   // keys of an item; fixed, so that sums do not depend on threads
constexpr int64_t kWorthSharing = 1 << 16;  // numbers of keys and values; fewer are one thread's
constexpr double kBaseTwo = 1.4426950408889634, kNatural = 0.6931471805599453;

struct Stream {
  const AttentionSizes& sizes;
  const Sight& sight;
  const Tensor &q, &k, &v;
  float factor;  // scale in base 2
  int64_t rows, chunks;
  // Of every item: outputs [items][rows][V], largest scores and sums of weights [items][rows].
  Scratch out, most, total;
};

template <class T>
using Bits = std::conditional_t<std::is_same_v<T, float>, float, uint16_t>;

template <class T>
const StreamProducts<Bits<T>>& products() {
  const AttentionStream& all = *simd_levels().front().stream;
  if constexpr (std::is_same_v<T, float>)
    return all.float32;
  else
    return all.bfloat16;
}

template <class T>
StreamRows<Bits<T>> rows_of(const Tensor& x, int64_t b, int64_t h, int64_t first, int64_t count) {
  const T* data = x.data_ptr<T>() + b * x.stride(0) + h * x.stride(1) + first * x.stride(2);
  return {reinterpret_cast<const Bits<T>*>(data), x.stride(2), count, x.size(3)};
}

/// The queries of all heads that share keys, times the factor.
template <class T>
void gather_queries(const Stream& s, int64_t b, int64_t kv_head, float* to) {
  for (int64_t r = 0; r < s.rows; ++r, to += s.sizes.width) {
    const int64_t h = kv_head * s.sizes.group() + r / s.sizes.queries;
    widen(s.q.data_ptr<T>() + b * s.q.stride(0) + h * s.q.stride(1) +
              r % s.sizes.queries * s.q.stride(2),
          to, s.sizes.width);
    for (int64_t c = 0; c < s.sizes.width; ++c) to[c] *= s.factor;
  }
}

/// Outputs of one chunk of keys, not yet divided by the sums of their weights.
template <class T>
void stream_chunk(const Stream& s, float* queries, float* scores, int64_t item) {
  const AttentionSizes& sizes = s.sizes;
  const int64_t head = item / s.chunks, b = head / sizes.kv_heads, kv_head = head % sizes.kv_heads;
  const int64_t chunk_begin = item % s.chunks * kChunk;
  const Sight::Range all = s.sight.range(0, sizes.queries);
  const int64_t begin = std::max(chunk_begin, all.begin);
  const int64_t count = std::min(chunk_begin + kChunk, all.end) - begin;
  float* out = s.out.data() + item * s.rows * sizes.value_width;
  float* most = s.most.data() + item * s.rows;
  float* total = s.total.data() + item * s.rows;
  if (count <= 0) {
    std::fill_n(out, s.rows * sizes.value_width, 0.0f);
    std::fill_n(most, s.rows, 0.0f);
    std::fill_n(total, s.rows, 0.0f);
    return;
  }
  gather_queries<T>(s, b, kv_head, queries);
  products<T>().scores(queries, s.rows, rows_of<T>(s.k, b, kv_head, begin, count), scores, kChunk);
  for (int64_t r = 0; r < s.rows; ++r) {
    const int64_t h = kv_head * sizes.group() + r / sizes.queries;
    float* row = scores + r * kChunk;
    s.sight.judge(b, h, r % sizes.queries, begin, count, row);
    total[r] = simd_levels().front().stream->weigh(row, count, most[r]);
  }
  products<T>().mix(scores, kChunk, s.rows, rows_of<T>(s.v, b, kv_head, begin, count), out);
}

/// One row of outputs and its log-sum, from what the chunks found.
template <class T>
void merge(const Stream& s, const AttentionResult& result, int64_t head, int64_t r, float* sums) {
  const int64_t width = s.sizes.value_width, first = head * s.chunks;
  const auto place = [&](int64_t chunk) { return (first + chunk) * s.rows + r; };
  float most = -std::numeric_limits<float>::infinity(), total = 0.0f;
  for (int64_t i = 0; i < s.chunks; ++i)
    if (s.total.data()[place(i)] != 0.0f) most = std::max(most, s.most.data()[place(i)]);
  std::fill_n(sums, width, 0.0f);
  for (int64_t i = 0; i < s.chunks; ++i) {
    if (s.total.data()[place(i)] == 0.0f) continue;
    const float factor = std::exp2(s.most.data()[place(i)] - most);
    const float* out = s.out.data() + place(i) * width;
    total += factor * s.total.data()[place(i)];
    for (int64_t c = 0; c < width; ++c) sums[c] += factor * out[c];
  }
  const float share = total != 0.0f ? 1.0f / total : 0.0f;
  for (int64_t c = 0; c < width; ++c) sums[c] *= share;
  const int64_t b = head / s.sizes.kv_heads;
  const int64_t h = head % s.sizes.kv_heads * s.sizes.group() + r / s.sizes.queries;
  const int64_t n = r % s.sizes.queries;
  narrow(sums,
         result.out.data_ptr<T>() + b * result.out.stride(0) + h * result.out.stride(1) +
             n * result.out.stride(2),
         width);
  result.log_sum_exp.data_ptr<float>()[(b * s.sizes.heads + h) * s.sizes.queries + n] =
      total != 0.0f ? static_cast<float>(kNatural * (most + std::log2(total))) : most;
}

template <class T>
void stream(const Stream& s, const AttentionResult& result) {
  const int64_t heads = s.sizes.batch * s.sizes.kv_heads, width = s.sizes.value_width;
  const auto make = [&] { return Scratch(s.rows * (s.sizes.width + kChunk)); };
  const auto work = [&](const Scratch& memory, int64_t item) {
    stream_chunk<T>(s, memory.data(), memory.data() + s.rows * s.sizes.width, item);
  };
  const int64_t numbers = heads * s.sizes.keys * (s.sizes.width + width);
  in_turns(heads * s.chunks, make, work, numbers < kWorthSharing ? 1 : at::get_num_threads());
  const Scratch sums(width);
  for (int64_t head = 0; head < heads; ++head)
    for (int64_t r = 0; r < s.rows; ++r) merge<T>(s, result, head, r, sums.data());
}

}  // namespace

void attention_stream(const AttentionSizes& sizes, const Sight& sight, const Tensor& q,
                      const Tensor& k, const Tensor& v, double scale,
                      const AttentionResult& result) {
  const int64_t rows = sizes.group() * sizes.queries, chunks = (sizes.keys + kChunk - 1) / kChunk;
  const int64_t parts = sizes.batch * sizes.kv_heads * chunks * rows;
  const Stream s{sizes,
                 sight,
                 q,
                 k,
                 v,
                 static_cast<float>(scale * kBaseTwo),
                 rows,
                 chunks,
                 Scratch(parts * sizes.value_width),
                 Scratch(parts),
                 Scratch(parts)};
  if (q.scalar_type() == at::kFloat)
    stream<float>(s, result);
  else
    stream<c10::BFloat16>(s, result);
}

}  // namespace formwork::cpu

namespace formwork {

bool attention_streams(const at::Tensor& q, const at::Tensor& k) {
  return q.size(1) / k.size(1) * q.size(2) <= cpu::kMostRows;
}

}  // namespace formwork

#include "kernels/simd/attention_stream.h"

#include <limits>

#include "kernels/simd/vector.h"

namespace formwork::FORMWORK_SIMD {
namespace {

constexpr int64_t kKeysAtOnce = 4;
constexpr int kMixedAtOnce = 8;
constexpr int64_t kKeysAhead = 8;  // keys whose memory is asked for before they are needed

/// The last numbers of a row, zeros behind them.
template <class T>
Vector end_of(const T* from, int64_t count) {
  T padded[kLanes] = {};
  std::memcpy(padded, from, sizeof(T) * static_cast<size_t>(count));
  return widened(padded);
}

/// Sums of four vectors each.
struct FourSums {
  float sums[4];

  explicit FourSums(const Vector (&v)[4]) {
    Integers even, odd, low, high;
    for (int i = 0; i < kLanes; ++i) {
      const int half = i / 2 * 2, quarter = i / 4 * 4, other = static_cast<int>(kLanes);
      even[i] = half + (i % 2 ? other : 0);
      odd[i] = half + 1 + (i % 2 ? other : 0);
      low[i] = quarter + i % 2 + (i % 4 > 1 ? other : 0);
      high[i] = quarter + 2 + i % 2 + (i % 4 > 1 ? other : 0);
    }
    const Vector a = __builtin_shuffle(v[0], v[1], even) + __builtin_shuffle(v[0], v[1], odd);
    const Vector b = __builtin_shuffle(v[2], v[3], even) + __builtin_shuffle(v[2], v[3], odd);
    const Vector all = __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
    for (int i = 0; i < 4; ++i) {
      sums[i] = all[i];
      for (int64_t j = i + 4; j < kLanes; j += 4) sums[i] += all[j];
    }
  }
};

template <class T>
void scores_of(const float* queries, int64_t count, const StreamRows<T>& keys, float* scores,
               int64_t stride) {
  const int64_t whole = keys.channels / kLanes * kLanes, rest = keys.channels - whole;
  for (int64_t c = 0; c < keys.count; c += kKeysAtOnce) {
    const int64_t there = keys.count - c < kKeysAtOnce ? keys.count - c : kKeysAtOnce;
    const T* rows[kKeysAtOnce];
    for (int64_t i = 0; i < kKeysAtOnce; ++i)  // the last one again where there are fewer
      rows[i] = keys.data + (c + (i < there ? i : there - 1)) * keys.stride;
    for (int64_t r = 0; r < count; ++r) {
      const float* query = queries + r * keys.channels;
      Vector sums[kKeysAtOnce] = {};
      for (int64_t k = 0; k < whole; k += kLanes) {
        const Vector x = load(query + k);
#pragma GCC unroll 4
        for (int64_t i = 0; i < kKeysAtOnce; ++i) sums[i] += x * widened(rows[i] + k);
      }
      if (rest > 0) {
        const Vector x = end_of(query + whole, rest);
        for (int64_t i = 0; i < kKeysAtOnce; ++i) sums[i] += x * end_of(rows[i] + whole, rest);
      }
      std::memcpy(scores + r * stride + c, FourSums(sums).sums,
                  sizeof(float) * static_cast<size_t>(there));
    }
  }
}

/// kCount vectors of channels from `first` on.
template <int kCount, class T>
void mix_channels(const float* weights, const StreamRows<T>& values, int64_t first, float* out) {
  Vector sums[kCount] = {};
  const T* row = values.data + first;
  for (int64_t c = 0; c < values.count; ++c, row += values.stride) {
    __builtin_prefetch(row + kKeysAhead * values.stride);
    const float weight = weights[c];
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) sums[i] += weight * widened(row + i * kLanes);
  }
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) store(out + first + i * kLanes, sums[i]);
}

template <class T>
void mix(const float* weights, int64_t stride, int64_t count, const StreamRows<T>& values,
         float* out) {
  for (int64_t r = 0; r < count; ++r, weights += stride, out += values.channels) {
    int64_t first = 0;
    for (; first + kMixedAtOnce * kLanes <= values.channels; first += kMixedAtOnce * kLanes)
      mix_channels<kMixedAtOnce>(weights, values, first, out);
    for (; first + kLanes <= values.channels; first += kLanes)
      mix_channels<1>(weights, values, first, out);
    if (first == values.channels) continue;
    Vector sums{};
    const int64_t rest = values.channels - first;
    for (int64_t c = 0; c < values.count; ++c)
      sums += weights[c] * end_of(values.data + c * values.stride + first, rest);
    std::memcpy(out + first, &sums, sizeof(float) * static_cast<size_t>(rest));
  }
}

float weigh(float* scores, int64_t count, float& most) {
  constexpr float kNoScore = -std::numeric_limits<float>::infinity();
  const int64_t whole = count / kLanes * kLanes;
  Vector high = all(kNoScore);
  for (int64_t c = 0; c < whole; c += kLanes) high = larger(high, load(scores + c));
  most = kNoScore;
  for (int64_t i = 0; i < kLanes; ++i) most = high[i] > most ? high[i] : most;
  for (int64_t c = whole; c < count; ++c) most = scores[c] > most ? scores[c] : most;
  if (most == kNoScore) most = 0.0f;
  Vector sums{};
  for (int64_t c = 0; c < whole; c += kLanes) {
    const Vector weight = exp2_of_negative(load(scores + c) - most);
    store(scores + c, weight);
    sums += weight;
  }
  float total = sum(sums);
  for (int64_t c = whole; c < count; ++c) {
    scores[c] = exp2_of_negative(all(scores[c] - most))[0];
    total += scores[c];
  }
  return total;
}

}  // namespace

extern const AttentionStream kAttentionStream;
const AttentionStream kAttentionStream{
    weigh, {scores_of<float>, mix<float>}, {scores_of<uint16_t>, mix<uint16_t>}};

}  // namespace formwork::FORMWORK_SIMD

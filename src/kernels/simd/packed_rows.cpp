#include "kernels/simd/packed_rows.h"

#include "kernels/simd/vector.h"

namespace formwork::FORMWORK_SIMD {
namespace {

/// Vectors of x that one pass over a row of weights serves; more would leave no registers.
constexpr int64_t kVectorsAtOnce = 4;
/// Sums that each vector has, so that additions need not wait for each other.
constexpr int kSums = 2;
constexpr int64_t kStep = kSums * kLanes;
/// Bytes that a row is asked for ahead of its use: left to the processor's own prefetching (Zen 3),
/// weights in 8 bits are read at half the speed.
constexpr uintptr_t kBytesAhead = 4096;

/// The address may lie behind the matrix, where nothing is read: hence a number, not a pointer.
inline void ask_for(const void* from) {
  __builtin_prefetch(
      reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(from) + kBytesAhead));
}

/// Whole steps of the products of a row of weights and kCount vectors.
template <int kCount, class W>
inline void add_products(const W* w, const float* x, int64_t x_stride, int64_t n,
                         Vector (&sums)[kCount][kSums]) {
  for (int64_t k = 0; k < n; k += kStep) {
    ask_for(w + k);
#pragma GCC unroll 2
    for (int s = 0; s < kSums; ++s) {
      const int64_t at = k + s * kLanes;
      const Vector weights = widened(w + at);
#pragma GCC unroll 4
      for (int r = 0; r < kCount; ++r) sums[r][s] += weights * load(x + r * x_stride + at);
    }
  }
}

/// The last entries of rows, fewer than a step, with zeros behind them.
template <int kRows, class T>
struct Ends {
  T values[kRows][kStep] = {};
  Ends(const T* rows, int64_t stride, int64_t whole, int64_t n) {
    for (int o = 0; o < kRows; ++o)
      std::memcpy(values[o], rows + o * stride + whole, static_cast<size_t>(n - whole) * sizeof(T));
  }
};

template <int kCount, class W>
inline void products_of_row(const W* w, const float* scale, int64_t row, int64_t n,
                            const FewVectors& vectors, int64_t first_vector) {
  Vector sums[kCount][kSums] = {};
  const float* x = vectors.x + first_vector * vectors.x_stride;
  const int64_t whole = n / kStep * kStep;
  add_products<kCount>(w + row * n, x, vectors.x_stride, whole, sums);
  if (whole < n) {
    const Ends<1, W> weights(w + row * n, n, whole, n);
    const Ends<kCount, float> ends(x, vectors.x_stride, whole, n);
    add_products<kCount>(weights.values[0], ends.values[0], kStep, kStep, sums);
  }
  for (int r = 0; r < kCount; ++r) {
    const float total = sum(sums[r][0] + sums[r][1]);
    vectors.y[(first_vector + r) * vectors.y_stride + row] = scale ? total * scale[row] : total;
  }
}

/// A row at a time, so that weights come in the order in which they lie in memory. The bias comes
/// after all: the compiler would fuse it with the scale for some numbers of vectors and not for
/// others, which rounds differently.
template <class W>
void products(const W* w, const float* scale, const float* bias, int64_t first, int64_t last,
              int64_t n, const FewVectors& vectors) {
  const int64_t left = vectors.count % kVectorsAtOnce, most = vectors.count - left;
  for (int64_t row = first; row < last; ++row) {
    for (int64_t r = 0; r < most; r += kVectorsAtOnce)
      products_of_row<kVectorsAtOnce>(w, scale, row, n, vectors, r);
    if (left == 3) products_of_row<3>(w, scale, row, n, vectors, most);
    if (left == 2) products_of_row<2>(w, scale, row, n, vectors, most);
    if (left == 1) products_of_row<1>(w, scale, row, n, vectors, most);
  }
  if (!bias) return;
  for (int64_t r = 0; r < vectors.count; ++r)
    for (int64_t row = first; row < last; ++row) vectors.y[r * vectors.y_stride + row] += bias[row];
}

void int8_products(const int8_t* q, const float* scale, const float* bias, int64_t first,
                   int64_t last, int64_t n, const FewVectors& vectors) {
  products(q, scale, bias, first, last, n, vectors);
}

void bfloat16_products(const uint16_t* w, const float* bias, int64_t first, int64_t last, int64_t n,
                       const FewVectors& vectors) {
  products(w, nullptr, bias, first, last, n, vectors);
}

void float32_products(const float* w, const float* bias, int64_t first, int64_t last, int64_t n,
                      const FewVectors& vectors) {
  products(w, nullptr, bias, first, last, n, vectors);
}

void int8_row(const int8_t* q, float scale, float* out, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(out + i, widened(q + i) * scale);
  for (; i < count; ++i) out[i] = static_cast<float>(q[i]) * scale;
}

void bfloat16_row(const uint16_t* w, float* out, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(out + i, widened(w + i));
  for (; i < count; ++i) {
    const uint32_t bits = static_cast<uint32_t>(w[i]) << 16;
    std::memcpy(out + i, &bits, sizeof(bits));
  }
}

}  // namespace

extern const PackedProducts kPackedProducts;
const PackedProducts kPackedProducts{int8_products, bfloat16_products, float32_products, int8_row,
                                     bfloat16_row};

}  // namespace formwork::FORMWORK_SIMD

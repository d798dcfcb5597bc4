// Vectors as wide as the instruction set that the including file is compiled for, and the matrix
// product of small tiles. Only files of this folder include it: they are compiled once for every
// instruction set (cmake/simd.cmake) and hold nothing that another file could share with them.
#pragma once

#include <cstdint>
#include <cstring>

namespace formwork::FORMWORK_SIMD {

#if defined(__AVX512F__)
constexpr int64_t kVectorBytes = 64;
constexpr int kRowsAtOnce = 12;  // 24 of 32 registers hold sums
#elif defined(__AVX2__)
constexpr int64_t kVectorBytes = 32;
constexpr int kRowsAtOnce = 6;  // 12 of 16
#else
constexpr int64_t kVectorBytes = 16;
constexpr int kRowsAtOnce = 6;
#endif
constexpr int64_t kLanes = kVectorBytes / 4;

typedef float Vector __attribute__((vector_size(kVectorBytes)));
typedef int32_t Integers __attribute__((vector_size(kVectorBytes)));

static inline Vector load(const float* from) {
  Vector v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}
static inline void store(float* to, Vector v) {
  std::memcpy(to, &v, sizeof(v));
}
static inline Vector all(float x) {
  return Vector{} + x;
}
static inline Vector larger(Vector a, Vector b) {
  return a > b ? a : b;
}
static inline float sum(Vector v) {
  float total = 0;
  for (int64_t i = 0; i < kLanes; ++i) total += v[i];
  return total;
}
static inline float largest(Vector v) {
  float most = v[0];
  for (int64_t i = 1; i < kLanes; ++i) most = v[i] > most ? v[i] : most;
  return most;
}

/// 2^x within 2e-7 for x <= 0; 0 below -126, where floats lose digits; NaN for NaN. Taylor series
/// of e^(r ln 2) on |r| <= 1/2.
static inline Vector exp2_of_negative(Vector x) {
  const Vector low = all(-126.0f);
  const Vector clamped = larger(x, low);
  // Adding 1.5·2^23 rounds to a whole number, which then stands in the lowest bits.
  const Vector magic = all(12582912.0f);
  const Vector shifted = clamped + magic;
  const Vector r = clamped - (shifted - magic);
  Vector p = all(1.5403530e-4f);
  p = p * r + 1.3333558e-3f;
  p = p * r + 9.6181291e-3f;
  p = p * r + 5.5504109e-2f;
  p = p * r + 2.4022651e-1f;
  p = p * r + 6.9314718e-1f;
  p = p * r + 1.0f;
  Integers bits, exponent;
  std::memcpy(&bits, &p, sizeof(bits));
  std::memcpy(&exponent, &shifted, sizeof(exponent));
  bits += exponent << 23;
  Vector result;
  std::memcpy(&result, &bits, sizeof(result));
  const Vector number = x < low ? Vector{} : result;
  return x == x ? number : x;
}

/// A matrix that is read number by number.
struct Left {
  const float* data;
  int64_t row_stride, column_stride;
};

/// Whether a product overwrites c or adds to it.
enum class Into { set, add };

template <int kRows, int kVectors, Into kInto>
static inline void product_block(const Left& a, const float* b, int64_t b_stride, float* c,
                                 int64_t c_stride, int64_t inner) {
  Vector sums[kRows][kVectors] = {};
  for (int64_t k = 0; k < inner; ++k) {
    Vector right[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) right[v] = load(b + k * b_stride + v * kLanes);
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
      const float left = a.data[m * a.row_stride + k * a.column_stride];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[m][v] += left * right[v];
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      float* to = c + m * c_stride + v * kLanes;
      store(to, kInto == Into::add ? load(to) + sums[m][v] : sums[m][v]);
    }
  }
}

/// The last rows, fewer than kRowsAtOnce.
template <int kRows, int kVectors, Into kInto>
static inline void product_rest(int64_t rows, const Left& a, const float* b, int64_t b_stride,
                                float* c, int64_t c_stride, int64_t inner) {
  if constexpr (kRows > 0) {
    if (rows == kRows)
      product_block<kRows, kVectors, kInto>(a, b, b_stride, c, c_stride, inner);
    else
      product_rest<kRows - 1, kVectors, kInto>(rows, a, b, b_stride, c, c_stride, inner);
  }
}

template <int kVectors, Into kInto>
static inline void product_columns(const Left& a, const float* b, int64_t b_stride, float* c,
                                   int64_t c_stride, int64_t rows, int64_t inner) {
  int64_t m = 0;
  for (; m + kRowsAtOnce <= rows; m += kRowsAtOnce)
    product_block<kRowsAtOnce, kVectors, kInto>(
        {a.data + m * a.row_stride, a.row_stride, a.column_stride}, b, b_stride, c + m * c_stride,
        c_stride, inner);
  product_rest<kRowsAtOnce - 1, kVectors, kInto>(
      rows - m, {a.data + m * a.row_stride, a.row_stride, a.column_stride}, b, b_stride,
      c + m * c_stride, c_stride, inner);
}

/// c [rows, columns] = or += a [rows, inner] · b [inner, columns]; columns is a multiple of 16.
template <Into kInto>
static inline void product(const Left& a, const float* b, int64_t b_stride, float* c,
                           int64_t c_stride, int64_t rows, int64_t columns, int64_t inner) {
  int64_t n = 0;
  for (; n + 2 * kLanes <= columns; n += 2 * kLanes)
    product_columns<2, kInto>(a, b + n, b_stride, c + n, c_stride, rows, inner);
  for (; n < columns; n += kLanes)
    product_columns<1, kInto>(a, b + n, b_stride, c + n, c_stride, rows, inner);
}

}  // namespace formwork::FORMWORK_SIMD

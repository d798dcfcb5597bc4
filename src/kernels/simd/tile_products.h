// Matrix products of small tiles whose sums stay in registers until a caller's function takes them.
// Only files of this folder include it.
#pragma once

#include "kernels/simd/vector.h"

namespace formwork::FORMWORK_SIMD {

#if defined(__AVX512F__)
constexpr int kRowsAtOnce = 12;  // 24 of 32 registers hold sums
#else
constexpr int kRowsAtOnce = 6;  // 12 of 16
#endif

/// A matrix that is read number by number.
struct Left {
  const float* data;
  int64_t row_stride, column_stride;
};
/// A matrix that is read vector by vector.
struct Right {
  const float* data;
  int64_t stride;
};

/// Places first + row .. last + row of what a row of the product needs, within 0 .. limit.
struct Reach {
  int64_t first, last, limit;

  int64_t begin(int64_t row) const { return first + row > 0 ? first + row : 0; }
  int64_t end(int64_t row) const { return last + row + 1 < limit ? last + row + 1 : limit; }
};
/// Whether a reach leaves out columns of the result or terms of the sums.
enum class Limits { columns, terms };

struct Shape {
  int64_t rows, columns, inner;
};

template <Limits kLimits, int kRows, int kVectors, class Take>
static inline void product_block(const Left& a, const Right& b, const Shape& shape,
                                 const Reach& reach, int64_t row, int64_t column,
                                 const Take& take) {
  const int64_t begin = reach.begin(row), end = reach.end(row + kRows - 1);
  int64_t k = 0, last = shape.inner;
  if constexpr (kLimits == Limits::columns) {
    if (column + kVectors * kLanes <= begin || column >= end) return;
  } else {
    if (begin >= end) return;
    k = begin;
    last = end;
  }
  Vector sums[kRows][kVectors] = {};
  // Three rows from each of these: their addresses need no registers of their own.
  const int64_t step = a.row_stride;
  const float* left[kRows] = {};
  for (int m = 0; m < kRows; m += 3) left[m] = a.data + (row + m) * step + k * a.column_stride;
  const float* right = b.data + k * b.stride + column;
  for (; k < last; ++k, right += b.stride) {
    Vector values[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) values[v] = load(right + v * kLanes);
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
      const float factor = left[m / 3 * 3][m % 3 * step];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[m][v] += factor * values[v];
    }
#pragma GCC unroll 16
    for (int m = 0; m < kRows; m += 3) left[m] += a.column_stride;
  }
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) take(row + m, column + v * kLanes, sums[m][v]);
  }
}

/// The last rows, fewer than kRowsAtOnce.
template <Limits kLimits, int kRows, int kVectors, class Take>
static inline void product_rest(int64_t rows, const Left& a, const Right& b, const Shape& shape,
                                const Reach& reach, int64_t row, int64_t column, const Take& take) {
  if constexpr (kRows > 0) {
    if (rows == kRows)
      product_block<kLimits, kRows, kVectors>(a, b, shape, reach, row, column, take);
    else
      product_rest<kLimits, kRows - 1, kVectors>(rows, a, b, shape, reach, row, column, take);
  }
}

template <Limits kLimits, int kVectors, class Take>
static inline void product_columns(const Left& a, const Right& b, const Shape& shape,
                                   const Reach& reach, int64_t column, const Take& take) {
  int64_t row = 0;
  for (; row + kRowsAtOnce <= shape.rows; row += kRowsAtOnce)
    product_block<kLimits, kRowsAtOnce, kVectors>(a, b, shape, reach, row, column, take);
  product_rest<kLimits, kRowsAtOnce - 1, kVectors>(shape.rows - row, a, b, shape, reach, row,
                                                   column, take);
}

/// take(row, column, vector of a · b from that column on) for all of [rows, columns], but where
/// `reach` leaves columns out. columns is a multiple of kLanes.
template <Limits kLimits, class Take>
static inline void product(const Left& a, const Right& b, const Shape& shape, const Reach& reach,
                           const Take& take) {
  int64_t column = 0;
  for (; column + 2 * kLanes <= shape.columns; column += 2 * kLanes)
    product_columns<kLimits, 2>(a, b, shape, reach, column, take);
  for (; column < shape.columns; column += kLanes)
    product_columns<kLimits, 1>(a, b, shape, reach, column, take);
}

}  // namespace formwork::FORMWORK_SIMD

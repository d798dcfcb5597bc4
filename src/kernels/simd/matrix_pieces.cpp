// A block of the result is a few rows by two vectors, whose sums stay in registers while both
// matrices are read number by number and vector by vector, each in the order in which it is packed
// (Goto and van de Geijn 2008, "Anatomy of high-performance matrix multiplication").
#include "kernels/simd/matrix_pieces.h"

#include "kernels/simd/square.h"
#include "kernels/simd/vector.h"

namespace formwork::FORMWORK_SIMD {
namespace {

// Sums in registers: 24 of AVX-512's 32, 12 of the others' 16.
#if defined(__AVX512F__)
constexpr int kLeft = 12;
#else
constexpr int kLeft = 6;
#endif
constexpr int kVectors = 2;
constexpr int64_t kRight = kVectors * kLanes;
/// Terms that are asked for early where each lies in another line: the processor does not foresee
/// them.
constexpr int64_t kAhead = 8;

/// kCount rows of four terms become four rows of a strip.
template <int64_t kCount, int64_t kRows>
inline __attribute__((always_inline)) void turn_rows(const float* from, int64_t stride, float* to) {
  Square square{};
#pragma GCC unroll 4
  for (int64_t i = 0; i < kCount; ++i)
    std::memcpy(&square.rows[i], from + i * stride, sizeof(Four));
  square.transpose();
#pragma GCC unroll 4
  for (int64_t i = 0; i < 4; ++i)
    std::memcpy(to + i * kRows, &square.rows[i], sizeof(float) * kCount);
}

/// A strip's rows, four terms at a time, turned; gives the terms done.
template <int64_t kRows>
int64_t turn_strip(const StridedMatrix& from, int64_t terms, float* to) {
  constexpr int64_t kWhole = kRows / 4 * 4;
  int64_t t = 0;
  for (; t + 4 <= terms; t += 4, to += 4 * kRows) {
#pragma GCC unroll 8
    for (int64_t r = 0; r < kWhole; r += 4)
      turn_rows<4, kRows>(from.data + r * from.row_stride + t, from.row_stride, to + r);
    if constexpr (kRows > kWhole)
      turn_rows<kRows - kWhole, kRows>(from.data + kWhole * from.row_stride + t, from.row_stride,
                                       to + kWhole);
  }
  return t;
}

template <int64_t kRows>
void pack(const StridedMatrix& from, int64_t rows, int64_t terms, float* to) {
  int64_t r = 0;
  if (from.row_stride == 1) {  // term by term, as the numbers lie
    const int64_t whole = rows / kRows * kRows;
    for (int64_t t = 0; t < terms; ++t)
      for (r = 0; r < whole; r += kRows) {
        const float* place = from.data + t * from.term_stride + r;
        __builtin_prefetch(place + kAhead * from.term_stride);
        std::memcpy(to + r * terms + t * kRows, place, sizeof(float) * kRows);
      }
    r = whole;
  }
  for (; r < rows; r += kRows) {
    const StridedMatrix strip{from.data + r * from.row_stride, from.row_stride, from.term_stride};
    const int64_t there = rows - r < kRows ? rows - r : kRows;
    float* place = to + r * terms;
    const bool turns = there == kRows && from.term_stride == 1;
    for (int64_t t = turns ? turn_strip<kRows>(strip, terms, place) : 0; t < terms; ++t)
      for (int64_t i = 0; i < kRows; ++i)
        place[t * kRows + i] =
            i < there ? strip.data[i * strip.row_stride + t * strip.term_stride] : 0.0f;
  }
}

/// Adds the product of two strips to kLeft rows of `to`, or begins it; what is there is asked for
/// early.
inline __attribute__((always_inline)) void multiply_strips(const float* left, const float* right,
                                                           int64_t terms, bool begin,
                                                           const float* bias, float* to,
                                                           int64_t stride) {
  for (int m = 0; m < kLeft; ++m) __builtin_prefetch(to + m * stride, 1);
  Vector sums[kLeft][kVectors] = {};
  for (int64_t t = 0; t < terms; ++t, left += kLeft, right += kRight) {
    Vector values[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) values[v] = load(right + v * kLanes);
#pragma GCC unroll 12
    for (int m = 0; m < kLeft; ++m) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[m][v] += left[m] * values[v];
    }
  }
#pragma GCC unroll 12
  for (int m = 0; m < kLeft; ++m) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      float* place = to + m * stride + v * kLanes;
      if (!begin)
        sums[m][v] += load(place);
      else if (bias)
        sums[m][v] += load(bias + v * kLanes);
      store(place, sums[m][v]);
    }
  }
}

/// The same where fewer rows or columns are there.
void multiply_edge(const float* left, int64_t rows, const float* right, int64_t columns,
                   int64_t terms, bool begin, const float* bias, float* to, int64_t stride) {
  alignas(64) float whole[kLeft * kRight];
  multiply_strips(left, right, terms, true, nullptr, whole, kRight);
  for (int64_t m = 0; m < rows; ++m)
    for (int64_t n = 0; n < columns; ++n) {
      float& place = to[m * stride + n];
      const float before = !begin ? place : bias ? bias[n] : 0.0f;
      place = before + whole[m * kRight + n];
    }
}

void multiply(const float* left, int64_t rows, const float* right, int64_t columns, int64_t terms,
              bool begin, const float* bias, float* to, int64_t stride) {
  // A strip of the right matrix stays in the first cache while all of the left pass by.
  for (int64_t n = 0; n < columns; n += kRight) {
    const float* strip = right + n * terms;
    const float* shift = bias ? bias + n : nullptr;
    for (int64_t m = 0; m < rows; m += kLeft) {
      float* place = to + m * stride + n;
      if (m + kLeft <= rows && n + kRight <= columns)
        multiply_strips(left + m * terms, strip, terms, begin, shift, place, stride);
      else
        multiply_edge(left + m * terms, rows - m < kLeft ? rows - m : kLeft, strip,
                      columns - n < kRight ? columns - n : kRight, terms, begin, shift, place,
                      stride);
    }
  }
}

}  // namespace

extern const MatrixPieces kMatrixPieces;
const MatrixPieces kMatrixPieces{kLeft, kRight, pack<kLeft>, pack<kRight>, multiply};

}  // namespace formwork::FORMWORK_SIMD

// Products of large matrices in pieces that stay in the processor's caches, for every instruction
// set.
#pragma once

#include <cstdint>

namespace formwork {

/// Float32 [rows, terms] of any strides.
struct StridedMatrix {
  const float* data = nullptr;
  int64_t row_stride = 0, term_stride = 0;
};

/// Packed matrices lie as strips of a few rows, each strip [terms][rows of a strip], with zeros for
/// rows beyond the last.
struct MatrixPieces {
  int64_t left_rows, right_rows;  // of a strip

  /// Rows of the left (right) matrix, from `first` on, into whole strips.
  void (*pack_left)(const StridedMatrix& from, int64_t rows, int64_t terms, float* to);
  void (*pack_right)(const StridedMatrix& from, int64_t rows, int64_t terms, float* to);
  /// to[i][j] += Σ left[i][t] right[j][t] for packed strips, rows of `to` `stride` apart; `begin`:
  /// to[i][j] = that + bias[j], where bias may be null.
  void (*multiply)(const float* left, int64_t rows, const float* right, int64_t columns,
                   int64_t terms, bool begin, const float* bias, float* to, int64_t stride);
};

}  // namespace formwork

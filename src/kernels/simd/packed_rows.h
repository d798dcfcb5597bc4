// Products of a few vectors with rows of a matrix held in 8, 16 or 32 bits, for every instruction
// set.
#pragma once

#include <cstdint>

namespace formwork {

/// A few vectors and where their products go: x [count][x_stride], y [count][y_stride].
struct FewVectors {
  const float* x = nullptr;
  int64_t count = 0, x_stride = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
};

/// Functions of rows first .. last - 1 of a matrix [.., n] of int8 (a float32 scale a row), of
/// bfloat16 as its 16 bits, or of float32. Each sum has one order, which depends on n alone.
struct PackedProducts {
  /// y[r][o] = scale[o] · Σ_k q[o][k] x[r][k] + bias[o]; bias may be null.
  void (*int8_products)(const int8_t* q, const float* scale, const float* bias, int64_t first,
                        int64_t last, int64_t n, const FewVectors& vectors);
  void (*bfloat16_products)(const uint16_t* w, const float* bias, int64_t first, int64_t last,
                            int64_t n, const FewVectors& vectors);
  void (*float32_products)(const float* w, const float* bias, int64_t first, int64_t last,
                           int64_t n, const FewVectors& vectors);
  /// `count` numbers from the packed form: out = scale · q, and out = w.
  void (*int8_row)(const int8_t* q, float scale, float* out, int64_t count);
  void (*bfloat16_row)(const uint16_t* w, float* out, int64_t count);
};

}  // namespace formwork

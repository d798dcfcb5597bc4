// Rows through tanh and the logistic function, for every instruction set.
#pragma once

#include <cstdint>

namespace formwork {

/// All rows have n floats; NaN stays NaN. tanh is within 5e-7 of the exact value, relatively, the
/// sigmoid within 1e-6 down to exp(-16): the rounding of an exponent grows with it.
struct SquashRows {
  /// out = tanh(alpha · x).
  void (*tanh)(const float* x, float alpha, float* out, int64_t n);
  /// y = root · x · scale · sigmoid(gate · x).
  void (*gate)(const float* x, float root, const float* scale, const float* gate, float* y,
               int64_t n);
  /// dx = the gradient of x for the gradient g of y, where a channel x of the row changes root by
  /// -slope · x; adds the gradients of scale and gate to their sums.
  void (*gate_backward)(const float* g, const float* x, float root, float slope, const float* scale,
                        const float* gate, float* dx, float* scale_sum, float* gate_sum, int64_t n);
};

}  // namespace formwork

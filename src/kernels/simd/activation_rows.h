// Rows through pointwise functions, for every instruction set.
#pragma once

#include <cstdint>

namespace formwork {

/// gelu by erf, relu2 = max(0, z)².
enum class Activation { identity, relu, relu2, gelu, gelu_tanh, silu, sigmoid };

/// All rows have n floats; null pointers are left out. NaN stays NaN. Values are within 1e-6 of
/// the exact ones, relatively down to 1e-3; slopes, where they are sums that cancel, down to 0.1.
struct ActivationRows {
  /// y = f(z + bias) · factor + residual; y may be any of the others.
  void (*forward)(Activation f, const float* z, const float* bias, const float* factor,
                  const float* residual, float* y, int64_t n);
  /// dz = g · factor · f'(z + bias), added to bias_sum; dfactor = g · f(z + bias).
  void (*backward)(Activation f, const float* g, const float* z, const float* bias,
                   const float* factor, float* dz, float* dfactor, float* bias_sum, int64_t n);
};

}  // namespace formwork

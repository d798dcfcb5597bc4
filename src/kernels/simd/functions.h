// Functions of vectors. Only files of this folder include it, as vector.h.
#pragma once

#include "kernels/simd/vector.h"

namespace formwork::FORMWORK_SIMD {

constexpr float kLog2E = 1.4426950f;

static inline Integers sign_bits(Vector x) {
  Integers bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits & (Integers{} + static_cast<int32_t>(0x80000000u));
}

/// x with those sign bits turned over.
static inline Vector turned(Vector x, Integers signs) {
  Integers bits;
  std::memcpy(&bits, &x, sizeof(bits));
  bits ^= signs;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

/// tanh |x| = (1 - e) / (1 + e) with e = exp(-2 |x|), and its Taylor series where that would lose
/// digits.
static inline Vector tanh_of(Vector x) {
  const Integers signs = sign_bits(x);
  const Vector size = turned(x, signs);
  const Vector e = exp2_of_negative(size * (-2 * kLog2E));
  const Vector far = (1.0f - e) / (1.0f + e);
  const Vector square = size * size;
  Vector q = all(-1382.0f / 155925);
  q = q * square + 62.0f / 2835;
  q = q * square - 17.0f / 315;
  q = q * square + 2.0f / 15;
  q = q * square - 1.0f / 3;
  return turned(size < all(0.35f) ? size + size * square * q : far, signs);
}

/// 1 / (1 + exp(-x)) and its derivative, by exp of what is at most 0, so that neither loses digits.
struct Logistic {
  Vector value, slope;
};
static inline Logistic logistic_at(Vector x) {
  const Vector e = exp2_of_negative(turned(x, sign_bits(x)) * -kLog2E);
  const Vector share = 1.0f / (1.0f + e);
  return {(x < Vector{} ? e : all(1.0f)) * share, e * share * share};
}
static inline Vector sigmoid_of(Vector x) {
  const Vector e = exp2_of_negative(turned(x, sign_bits(x)) * -kLog2E);
  return (x < Vector{} ? e : all(1.0f)) / (1.0f + e);
}

/// The density of the normal distribution and how much of it lies below x, to 3e-7 of either (far
/// below 0, where the exponent's own rounding shows, to 2e-7 x²).
struct Normal {
  Vector density, below;
};
static inline Normal normal_at(Vector x) {
  const Vector size = turned(x, sign_bits(x));
  const Vector e = exp2_of_negative(size * size * (-0.5f * kLog2E));
  // exp(t²) erfc(t) at t = |x| / √2 as a polynomial of 1 / (1 + 0.42 t), fitted to the least
  // relative error on 0 <= t <= 9.
  const Vector u = 1.0f / (1.0f + size * 0.29698485f);
  Vector p = all(0.07111177f);
  p = p * u - 0.32398199f;
  p = p * u + 0.44720290f;
  p = p * u - 0.13665405f;
  p = p * u + 0.27205605f;
  p = p * u + 0.19369698f;
  p = p * u + 0.23975537f;
  p = p * u + 0.23681283f;
  const Vector tail = 0.5f * (p * u) * e;
  return {e * 0.39894228f, x < Vector{} ? tail : 1.0f - tail};
}

/// The last floats of a row, fewer than a vector, followed by zeros.
struct Rest {
  float values[kLanes] = {};
  Rest(const float* from, int64_t count) {
    if (from) std::memcpy(values, from, count * sizeof(float));
  }
  void put(float* to, int64_t count) const { std::memcpy(to, values, count * sizeof(float)); }
};

}  // namespace formwork::FORMWORK_SIMD

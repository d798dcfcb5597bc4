// Vectors as wide as the instruction set that the including file is compiled for. Only files of
// this folder include it: they are compiled once for every instruction set (cmake/simd.cmake) and
// hold nothing that another file could share with them.
#pragma once

#include <cstdint>
#include <cstring>

namespace formwork::FORMWORK_SIMD {

#if defined(__AVX512F__)
constexpr int64_t kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int64_t kVectorBytes = 32;
#else
constexpr int64_t kVectorBytes = 16;
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

/// 2^x within 2e-7 for x <= 0 and a little above; 0 below -127; NaN for NaN. A polynomial of least
/// relative error on |r| <= 1/2 that is 1 at 0.
static inline Vector exp2_of_negative(Vector x) {
  const Vector low = all(-127.0f);
  const Vector clamped = low > x ? low : x;
  // Adding 1.5·2^23 rounds to a whole number, which then stands in the lowest bits.
  const Vector magic = all(12582912.0f);
  const Vector shifted = clamped + magic;
  const Vector r = clamped - (shifted - magic);
  Vector p = all(1.3264727e-3f);
  p = p * r + 9.671513e-3f;
  p = p * r + 5.5507336e-2f;
  p = p * r + 2.4022242e-1f;
  p = p * r + 6.93147e-1f;
  p = p * r + 1.0f;
  Integers exponent;
  std::memcpy(&exponent, &shifted, sizeof(exponent));
  exponent = (exponent + 127) << 23;  // -127 becomes 0, a factor of 0
  Vector power;
  std::memcpy(&power, &exponent, sizeof(power));
  return p * power;
}

}  // namespace formwork::FORMWORK_SIMD

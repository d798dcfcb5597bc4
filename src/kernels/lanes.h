// Short vectors in the notation that GCC and Clang share: they become SSE, AVX, NEON ... by what
// the file is compiled for, and sums keep one order on all of them.
#pragma once

#include <cstdint>
#include <cstring>

namespace formwork {

/// As wide as a register of AVX2; elsewhere the compiler splits it into the registers there are.
template <class T>
struct Lanes {
  typedef T Vector __attribute__((vector_size(32)));
  static constexpr int64_t kCount = 32 / sizeof(T);

  static inline Vector load(const T* from) {
    Vector v;
    std::memcpy(&v, from, sizeof(v));
    return v;
  }
  static inline void store(T* to, Vector v) { std::memcpy(to, &v, sizeof(v)); }
  static inline T sum(Vector v) {
    T total = 0;
    for (int64_t i = 0; i < kCount; ++i) total += v[i];
    return total;
  }
};

}  // namespace formwork

// Rows of any floating-point type, seen in the type that kernels compute in.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/lanes.h"

namespace formwork {

constexpr int64_t kRowsAtOnce = 32;     // least work for a thread
constexpr int64_t kMostPartials = 256;  // partial sums over the tokens

template <class T>
T* data_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.data_ptr<T>() : nullptr;
}

/// float64 stays, all others are computed in float32.
template <class T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

/// The same choice for a tensor.
inline at::ScalarType accumulator_type(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

template <class T>
void widen(const T* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(from[i]);
}
template <class T>
void narrow(const float* from, T* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<T>(from[i]);
}

inline void widen(const float* from, float* to, int64_t n) {
  std::memcpy(to, from, sizeof(float) * static_cast<size_t>(n));
}

typedef uint16_t FourShorts __attribute__((vector_size(8)));
typedef uint32_t FourWords __attribute__((vector_size(16)));

/// bfloat16 is the upper half of a float32.
inline void widen(const c10::BFloat16* from, float* to, int64_t n) {
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    FourShorts upper;
    std::memcpy(&upper, from + i, sizeof(upper));
    const FourWords whole = __builtin_convertvector(upper, FourWords) << 16;
    std::memcpy(to + i, &whole, sizeof(whole));
  }
  for (; i < n; ++i) to[i] = static_cast<float>(from[i]);
}

/// To the nearest, ties to even, as c10::BFloat16 rounds; a NaN stays one.
inline void narrow(const float* from, c10::BFloat16* to, int64_t n) {
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    FourWords whole;
    std::memcpy(&whole, from + i, sizeof(whole));
    const FourWords rounded = (whole + 0x7fffu + ((whole >> 16) & 1u)) >> 16;
    const auto is_nan = (whole & 0x7fffffffu) > 0x7f800000u;
    const FourWords nan = {0x7fc0u, 0x7fc0u, 0x7fc0u, 0x7fc0u};
    const FourShorts upper = __builtin_convertvector(is_nan ? nan : rounded, FourShorts);
    std::memcpy(static_cast<void*>(to + i), &upper, sizeof(upper));
  }
  for (; i < n; ++i) to[i] = static_cast<c10::BFloat16>(from[i]);
}

/// Reads rows: the memory itself where the types agree, else a widened copy.
template <class T>
class RowReader {
 public:
  explicit RowReader(int64_t width) : width_(width) {
    if constexpr (!std::is_same_v<T, Accumulator<T>>) buffer_.resize(width);
  }
  const Accumulator<T>* operator()(const T* row) {
    if constexpr (std::is_same_v<T, Accumulator<T>>) {
      return row;
    } else {
      widen(row, buffer_.data(), width_);
      return buffer_.data();
    }
  }

 private:
  int64_t width_;
  std::vector<Accumulator<T>> buffer_;
};

/// Writes rows: `place` says where to compute, `finish` rounds into the row.
template <class T>
class RowWriter {
 public:
  explicit RowWriter(int64_t width) : width_(width) {
    if constexpr (!std::is_same_v<T, Accumulator<T>>) buffer_.resize(width);
  }
  Accumulator<T>* place(T* row) {
    if constexpr (std::is_same_v<T, Accumulator<T>>)
      return row;
    else
      return buffer_.data();
  }
  void finish(T* row) {
    if constexpr (!std::is_same_v<T, Accumulator<T>>) narrow(buffer_.data(), row, width_);
  }

 private:
  int64_t width_;
  std::vector<Accumulator<T>> buffer_;
};

/// Σ x², four sums side by side so that additions need not wait for each other.
template <class A>
inline A sum_of_squares(const A* x, int64_t n) {
  using L = Lanes<A>;
  typename L::Vector s0{}, s1{}, s2{}, s3{};
  int64_t i = 0;
  for (; i + 4 * L::kCount <= n; i += 4 * L::kCount) {
    const auto a = L::load(x + i), b = L::load(x + i + L::kCount);
    const auto c = L::load(x + i + 2 * L::kCount), d = L::load(x + i + 3 * L::kCount);
    s0 += a * a;
    s1 += b * b;
    s2 += c * c;
    s3 += d * d;
  }
  A total = L::sum((s0 + s1) + (s2 + s3));
  for (; i < n; ++i) total += x[i] * x[i];
  return total;
}

/// Σ (x − centre) and Σ (x − centre)².
template <class A>
inline std::pair<A, A> moments(const A* x, A centre, int64_t n) {
  using L = Lanes<A>;
  typename L::Vector s0{}, s1{}, t0{}, t1{};
  int64_t i = 0;
  for (; i + 2 * L::kCount <= n; i += 2 * L::kCount) {
    const auto a = L::load(x + i) - centre, b = L::load(x + i + L::kCount) - centre;
    s0 += a;
    s1 += b;
    t0 += a * a;
    t1 += b * b;
  }
  A sum = L::sum(s0 + s1), squares = L::sum(t0 + t1);
  for (; i < n; ++i) {
    sum += x[i] - centre;
    squares += (x[i] - centre) * (x[i] - centre);
  }
  return {sum, squares};
}

}  // namespace formwork

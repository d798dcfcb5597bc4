// Rows of any floating-point type, seen in the type that kernels compute in.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>
#include <type_traits>
#include <vector>

namespace formwork {

/// float64 stays, all others are computed in float32.
template <class T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

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
      for (int64_t i = 0; i < width_; ++i) buffer_[i] = static_cast<float>(row[i]);
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
    if constexpr (!std::is_same_v<T, Accumulator<T>>)
      for (int64_t i = 0; i < width_; ++i) row[i] = static_cast<T>(buffer_[i]);
  }

 private:
  int64_t width_;
  std::vector<Accumulator<T>> buffer_;
};

}  // namespace formwork

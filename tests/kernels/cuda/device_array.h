// Arrays in the memory that the kernels work in, for checks that run both in the tests (emulated,
// in the CPU's memory) and in bench/gpu (on a GPU). No libtorch and no test library.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cuda/common.h"

namespace formwork::FORMWORK_CUDA {

// Whoever runs the checks says what device memory is.
void* device_allocate(size_t bytes);
void device_free(void* memory);
void copy_to_device(void* to, const void* from, size_t bytes);
/// After everything that was queued has run.
void copy_from_device(void* to, const void* from, size_t bytes);

/// Fills device memory, with bytes around it that nobody may write.
class DeviceArray {
 public:
  /// Not a number in every floating-point type, until somebody writes it.
  explicit DeviceArray(size_t bytes) : bytes_(bytes) {
    const std::vector<unsigned char> poison(bytes + 2 * kGuard, 0xff);
    memory_ = device_allocate(poison.size());
    copy_to_device(memory_, poison.data(), poison.size());
  }
  template <class T>
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size() * sizeof(T)) {
    copy_to_device(data(), values.data(), bytes_);
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { device_free(memory_); }

  void* data() const { return static_cast<unsigned char*>(memory_) + kGuard; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data());
  }
  template <class T>
  std::vector<T> read() const {
    std::vector<unsigned char> all(bytes_ + 2 * kGuard);
    copy_from_device(all.data(), memory_, all.size());
    for (size_t i = 0; i < kGuard; ++i)
      if (all[i] != 0xff || all[all.size() - 1 - i] != 0xff)
        throw std::runtime_error("a kernel wrote outside of its array");
    std::vector<T> values(bytes_ / sizeof(T));
    if (!values.empty()) std::memcpy(values.data(), all.data() + kGuard, values.size() * sizeof(T));
    return values;
  }

 private:
  static constexpr size_t kGuard = 256;
  size_t bytes_;
  void* memory_;
};

inline uint16_t bfloat16_bits(double x) {
  const auto bits = std::bit_cast<uint32_t>(static_cast<float>(x));
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
inline double from_bfloat16(uint16_t bits) {
  return static_cast<double>(std::bit_cast<float>(static_cast<uint32_t>(bits) << 16));
}

/// Numbers in a kernel's element type on the device; on the host what they are after rounding.
class Numbers {
 public:
  Numbers(Element element, const std::vector<double>& values)
      : host(values), element_(element), array_(bytes_of(element, values)) {
    for (double& x : host)
      x = element == Element::float32 ? static_cast<double>(static_cast<float>(x))
                                      : from_bfloat16(bfloat16_bits(x));
  }
  /// Not yet written.
  Numbers(Element element, int64_t count)
      : element_(element), array_(static_cast<size_t>(count * size_of(element))) {}

  void* data() const { return array_.data(); }
  float* floats() const { return array_.as<float>(); }
  /// What is there now.
  std::vector<double> read() const {
    std::vector<double> result;
    if (element_ == Element::float32)
      for (const float x : array_.read<float>()) result.push_back(static_cast<double>(x));
    else
      for (const uint16_t x : array_.read<uint16_t>()) result.push_back(from_bfloat16(x));
    return result;
  }

  std::vector<double> host;

 private:
  static std::vector<unsigned char> bytes_of(Element element, const std::vector<double>& values) {
    std::vector<unsigned char> bytes(values.size() * static_cast<size_t>(size_of(element)));
    for (size_t i = 0; i < values.size(); ++i) {
      const auto whole = static_cast<float>(values[i]);
      const uint16_t half = bfloat16_bits(values[i]);
      if (element == Element::float32)
        std::memcpy(&bytes[i * 4], &whole, 4);
      else
        std::memcpy(&bytes[i * 2], &half, 2);
    }
    return bytes;
  }

  Element element_;
  DeviceArray array_;
};

/// [B,H,N,W] numbers that lie as [B,N,H,W + gap], as projections leave them.
struct HeadNumbers {
  int batch, heads, rows, width, gap;
  Numbers numbers;

  HeadNumbers(Element element, const std::vector<double>& values, int b, int h, int n, int w, int g)
      : batch(b), heads(h), rows(n), width(w), gap(g), numbers(element, values) {}
  HeadNumbers(Element element, int b, int h, int n, int w)
      : batch(b),
        heads(h),
        rows(n),
        width(w),
        gap(0),
        numbers(element, int64_t{1} * b * h * n * w) {}

  int64_t row_stride() const { return int64_t{1} * heads * (width + gap); }
  Heads view() const { return {numbers.data(), row_stride() * rows, width + gap, row_stride()}; }
  int64_t at(int b, int h, int n, int c) const {
    return (int64_t{1} * b * rows + n) * row_stride() + int64_t{1} * h * (width + gap) + c;
  }
  double operator()(int b, int h, int n, int c) const {
    return numbers.host[static_cast<size_t>(at(b, h, n, c))];
  }
};

/// Normal numbers, the same for the same seed.
class Draw {
 public:
  explicit Draw(uint64_t seed) : engine_(seed) {}
  std::vector<double> normal(int64_t count, double scale = 1.0) {
    std::normal_distribution<double> distribution(0.0, scale);
    std::vector<double> values(static_cast<size_t>(count));
    for (double& x : values) x = distribution(engine_);
    return values;
  }
  /// Whole numbers from 0 to below - 1.
  int64_t below(int64_t limit) {
    return std::uniform_int_distribution<int64_t>(0, limit - 1)(engine_);
  }

 private:
  std::mt19937_64 engine_;
};

/// One comparison with float64.
struct Finding {
  std::string what;
  double error, limit;
  bool good() const { return error <= limit; }  // and not NaN
};

/// What a check found, and how exact it expects numbers to be.
class Report {
 public:
  /// The largest difference, relative to the largest expected number or to `least_size`.
  void compare(const std::string& what, const std::vector<double>& found,
               const std::vector<double>& expected, double limit, double least_size = 1.0) {
    double size = least_size, error = found.size() == expected.size() ? 0.0 : kNone;
    for (size_t i = 0; i < found.size() && error < kNone; ++i) {
      const double difference = std::fabs(found[i] - expected[i]);
      size = std::max(size, std::fabs(expected[i]));
      error = difference <= kNone ? std::max(error, difference) : kNone;
    }
    findings.push_back({what, error / size, limit});
  }
  void require(const std::string& what, bool good) {
    findings.push_back({what, good ? 0.0 : 1.0, 0.0});
  }

  std::vector<Finding> findings;

 private:
  static constexpr double kNone = std::numeric_limits<double>::max();
};

inline double limit_of(Element element) {
  return element == Element::float32 ? 2e-6 : 1e-2;
}
inline const char* name_of(Element element) {
  return element == Element::float32 ? " float32" : " bfloat16";
}

inline void succeed(Status status) {
  if (status)
    throw std::runtime_error("CUDA refused a launch with error " + std::to_string(status));
}

}  // namespace formwork::FORMWORK_CUDA

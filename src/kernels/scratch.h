// Memory for vectors of numbers that a kernel works in.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>

namespace formwork {

/// Floats that begin on a cache line, so that loads of whole vectors do not straddle two; not
/// initialised.
class Scratch {
 public:
  Scratch() = default;
  explicit Scratch(int64_t count)
      : data_(static_cast<float*>(::operator new(bytes(count), kLine))) {}
  float* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kLine{64};
  struct Free {
    void operator()(float* data) const { ::operator delete(data, kLine); }
  };
  static size_t bytes(int64_t count) { return sizeof(float) * static_cast<size_t>(count); }

  std::unique_ptr<float, Free> data_;
};

}  // namespace formwork

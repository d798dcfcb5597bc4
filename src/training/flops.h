// Counts floating-point operations where they happen: in PyTorch's dispatcher.
#pragma once

#include <cstdint>

namespace formwork {

/// While one lives, every matrix product, attention and convolution that any thread dispatches adds
/// its multiplications and additions (2·m·k·n for a product; half of the pairs for causal
/// attention; its backward as the five products it is). Elementwise work is not counted, as usual.
class FlopCounter {
 public:
  FlopCounter();
  ~FlopCounter();
  FlopCounter(const FlopCounter&) = delete;
  FlopCounter& operator=(const FlopCounter&) = delete;
  /// Operations since this counter was made.
  double count() const;

 private:
  uint64_t handle_;
  double start_;
};

}  // namespace formwork

// Mixed precision: products in bfloat16, everything that adds up in float32.
#pragma once

#include <c10/core/DeviceType.h>

#include <string>

namespace formwork {

/// While one lives and precision is "bfloat16", PyTorch's autocast runs matrix products and
/// attention on that device in bfloat16; float32 parameters are rounded once and the rounded copy
/// is reused until the guard ends. Other precisions: nothing.
class PrecisionGuard {
 public:
  explicit PrecisionGuard(const std::string& precision,
                          c10::DeviceType device = c10::DeviceType::CPU);
  ~PrecisionGuard();
  PrecisionGuard(const PrecisionGuard&) = delete;
  PrecisionGuard& operator=(const PrecisionGuard&) = delete;

 private:
  bool on_;
  c10::DeviceType device_;
};

}  // namespace formwork

// What tensors take while a computation runs.
#pragma once

#include <c10/core/Allocator.h>

#include <algorithm>
#include <cstdint>

namespace formwork {

/// Follows what the CPU allocator hands out and takes back on this thread, which runs backward
/// passes too. Active while a c10::DebugInfoGuard of DebugInfoKind::PROFILER_STATE holds it.
class PeakBytes final : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t size, size_t, size_t, c10::Device) override {
    now_ += size;
    peak_ = std::max(peak_, now_);
  }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t peak() const { return peak_; }

 private:
  int64_t now_ = 0;
  int64_t peak_ = 0;
};

}  // namespace formwork

// How fast this machine's memory is, for benches that say what bounds them.
#pragma once

#include <memory>

namespace formwork {

/// Bytes a second, of all threads together.
struct MemorySpeed {
  double read = 0.0;   // a sum over one large array
  double triad = 0.0;  // a = b + s c over large arrays: three numbers counted an entry
};

/// The arrays that MemorySpeed is measured on; several times larger than caches.
class MemoryMeter {
 public:
  MemoryMeter();
  ~MemoryMeter();
  MemoryMeter(const MemoryMeter&) = delete;
  MemoryMeter& operator=(const MemoryMeter&) = delete;
  /// Measures once more and returns the best so far.
  MemorySpeed measure();

 private:
  struct Arrays;
  std::unique_ptr<Arrays> arrays_;
  MemorySpeed best_;
};

}  // namespace formwork

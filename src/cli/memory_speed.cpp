#include "cli/memory_speed.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "cli/timing.h"
#include "kernels/parallel.h"

namespace formwork {

/// b is read alone too.
struct MemoryMeter::Arrays {
  std::vector<float> a, b, c;
  float sum = 0.0f;
};

namespace {

constexpr int64_t kFloats = int64_t{1} << 25;  // 128 MB an array
constexpr int64_t kFloatsAPart = int64_t{1} << 20;
constexpr int64_t kParts = kFloats / kFloatsAPart;

/// Two of them hold as many sums as keep the memory busy, not the adders.
typedef float Sixteen __attribute__((vector_size(64)));

/// What lies a page further, which may be behind the array: hence a number, not a pointer.
void ask_for(const float* from) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(from) + 4096));
}

float sum_of_part(const float* from) {
  Sixteen even{}, odd{};
  for (int64_t i = 0; i < kFloatsAPart; i += 32) {
    // As src/kernels/simd/packed_rows.cpp does: without it, it would be no ceiling.
    ask_for(from + i);
    ask_for(from + i + 16);
    Sixteen left, right;
    std::memcpy(&left, from + i, sizeof(left));
    std::memcpy(&right, from + i + 16, sizeof(right));
    even += left;
    odd += right;
  }
  even += odd;
  float total = 0.0f;
  for (int i = 0; i < 16; ++i) total += even[i];
  return total;
}

void triad_of_part(float* a, const float* b, const float* c) {
  for (int64_t i = 0; i < kFloatsAPart; i += 16) {
    Sixteen left, right;
    std::memcpy(&left, b + i, sizeof(left));
    std::memcpy(&right, c + i, sizeof(right));
    left += 3.0f * right;
    std::memcpy(a + i, &left, sizeof(left));
  }
}

double memory_rate(double arrays, double spent_ms) {
  return arrays * static_cast<double>(kFloats) * sizeof(float) / spent_ms * 1e3;
}

}  // namespace

MemoryMeter::MemoryMeter() : arrays_(std::make_unique<Arrays>()) {
  for (std::vector<float>* array : {&arrays_->a, &arrays_->b, &arrays_->c})
    array->assign(static_cast<size_t>(kFloats), 1.0f);
}

MemoryMeter::~MemoryMeter() = default;

MemorySpeed MemoryMeter::measure() {
  std::vector<float> sums(static_cast<size_t>(kParts));
  double start = milliseconds();
  in_parallel(kParts, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      sums[static_cast<size_t>(i)] = sum_of_part(arrays_->b.data() + i * kFloatsAPart);
  });
  best_.read = std::max(best_.read, memory_rate(1, milliseconds() - start));
  for (const float sum : sums) arrays_->sum += sum;  // so that the sums are needed
  start = milliseconds();
  in_parallel(kParts, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * kFloatsAPart; i < end * kFloatsAPart; i += kFloatsAPart)
      triad_of_part(arrays_->a.data() + i, arrays_->b.data() + i, arrays_->c.data() + i);
  });
  best_.triad = std::max(best_.triad, memory_rate(3, milliseconds() - start));
  return best_;
}

}  // namespace formwork

// CUDA's way of running a kernel, on the CPU: what .cu files of src/kernels/cuda need of nvcc and
// of kernels/cuda/ptx.h, so that g++ compiles the very same text and tests run it without a GPU.
// Every thread of a block is a fiber; a warp runs until all its lanes wait for the block or have
// ended. In which order, and whether copies ahead arrive at once or as late as they may, is for the
// test to say: numbers that depend on it show a missing barrier.
#pragma once

#define FORMWORK_CUDA_EMULATION 1
#define FORMWORK_CUDA emulated

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#include "kernels/cuda/common.h"

#undef __global__
#undef __device__
#undef __host__
#undef __forceinline__
#undef __launch_bounds__
#undef __shared__
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static  // one block at a time, all of it on one thread
#define FORMWORK_UNROLL

namespace formwork::emulated {

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  dim3(int64_t x_count, int64_t y_count = 1, int64_t z_count = 1)
      : x(static_cast<unsigned>(x_count)),
        y(static_cast<unsigned>(y_count)),
        z(static_cast<unsigned>(z_count)) {}
};

/// Of the fiber that runs.
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

struct Bfloat16 {
  uint16_t bits;
};

/// How the threads of a block take turns.
enum class Order {
  ascending,  // warps and lanes upwards; copies ahead arrive when they are awaited
  descending  // downwards; copies ahead arrive at once
};
void run_in_order(Order order);

struct Launch {
  dim3 blocks;
  int threads;
  size_t shared_bytes;
  Stream stream;
};
void run_blocks(const Launch& how, const std::function<void()>& thread);

template <class... Parameters, class... Arguments>
Status launch(const Launch& how, void (*kernel)(Parameters...), const Arguments&... arguments) {
  run_blocks(how, [&] { kernel(arguments...); });
  return 0;
}

unsigned char* shared_memory();
void __syncthreads();

/// What lanes do together; all of a warp must do the same.
enum class Together { barrier, shuffle, multiply, load };
/// Waits until every lane of the warp has handed in its `bytes`; returns those of lane 0, followed
/// every kSlot bytes by those of the others.
constexpr size_t kSlot = 64;
const unsigned char* exchange(Together what, const void* mine, size_t bytes);

inline void __syncwarp() {
  exchange(Together::barrier, nullptr, 0);
}

template <class T>
T slot_of(const unsigned char* slots, int lane) {
  T value;
  std::memcpy(static_cast<void*>(&value), slots + lane * kSlot, sizeof(T));
  return value;
}

template <class T>
T __shfl_sync(unsigned, T x, int lane) {
  return slot_of<T>(exchange(Together::shuffle, &x, sizeof(T)), lane % 32);
}
template <class T>
T __shfl_xor_sync(unsigned, T x, int step) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  return slot_of<T>(exchange(Together::shuffle, &x, sizeof(T)), lane ^ step);
}
template <class T>
T __shfl_up_sync(unsigned, T x, int step) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  return slot_of<T>(exchange(Together::shuffle, &x, sizeof(T)), lane < step ? lane : lane - step);
}

inline float __uint_as_float(uint32_t bits) {
  return std::bit_cast<float>(bits);
}
inline uint32_t rounded_bfloat16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  if (std::isnan(x)) return 0x7fffu;
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}
inline uint32_t pack_bfloat16(float low, float high) {
  return rounded_bfloat16(low) | rounded_bfloat16(high) << 16;
}

void multiply_16x8x16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void load_matrices(uint32_t (&to)[4], const void* row);
void load_matrices_across(uint32_t (&to)[4], const void* row);

void copy_ahead(void* to, const void* from);
void end_copies();
void await_groups(int left);
template <int left>
void await_copies() {
  await_groups(left);
}

using std::max;
using std::min;
inline float rsqrtf(float x) {
  return 1.0f / std::sqrt(x);
}

}  // namespace formwork::emulated

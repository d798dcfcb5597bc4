// Numbers, vectors of 16 bytes, and sums over a warp or a block, for all kernels.
#pragma once

#include <type_traits>

#include "kernels/cuda/common.h"

#ifdef __CUDACC__
#include "kernels/cuda/ptx.h"
#elif !defined(FORMWORK_CUDA_EMULATION)
#error "kernels for CUDA are compiled by nvcc, or by tests that emulate it"
#endif

namespace formwork::FORMWORK_CUDA {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ float wide(float x) {
  return x;
}
__device__ __forceinline__ float wide(Bfloat16 x) {
  return __uint_as_float(static_cast<uint32_t>(x.bits) << 16);
}
template <class T>
__device__ __forceinline__ T narrow(float x);
template <>
__device__ __forceinline__ float narrow<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ Bfloat16 narrow<Bfloat16>(float x) {
  return {static_cast<uint16_t>(pack_bfloat16(x, 0.0f))};
}

/// Elements that 16 bytes hold.
template <class T>
constexpr int kVector = 16 / static_cast<int>(sizeof(T));

/// n elements, loaded and stored as one: a power of two, at most 16 bytes.
template <class T, int n>
struct alignas(sizeof(T) * n) Vector {
  T values[n];
};
template <class T, int n>
__device__ __forceinline__ void load(float (&to)[n], const T* from) {
  const auto vector = *reinterpret_cast<const Vector<T, n>*>(from);
  FORMWORK_UNROLL
  for (int i = 0; i < n; ++i) to[i] = wide(vector.values[i]);
}
template <class T, int n>
__device__ __forceinline__ void store(T* to, const float (&from)[n]) {
  Vector<T, n> vector;
  FORMWORK_UNROLL
  for (int i = 0; i < n; ++i) vector.values[i] = narrow<T>(from[i]);
  *reinterpret_cast<Vector<T, n>*>(to) = vector;
}

/// n float32, 16 bytes at a time where there are so many: then they must be aligned so.
template <int n>
__device__ __forceinline__ void load_floats(float (&to)[n], const float* from) {
  constexpr int each = n < 4 ? n : 4;
  FORMWORK_UNROLL
  for (int i = 0; i < n; i += each) {
    const auto vector = *reinterpret_cast<const Vector<float, each>*>(from + i);
    FORMWORK_UNROLL
    for (int j = 0; j < each; ++j) to[i + j] = vector.values[j];
  }
}
template <int n>
__device__ __forceinline__ void store_floats(float* to, const float (&from)[n]) {
  constexpr int each = n < 4 ? n : 4;
  FORMWORK_UNROLL
  for (int i = 0; i < n; i += each) {
    Vector<float, each> vector;
    FORMWORK_UNROLL
    for (int j = 0; j < each; ++j) vector.values[j] = from[i + j];
    *reinterpret_cast<Vector<float, each>*>(to + i) = vector;
  }
}

/// The sum over the lanes of a warp, for all of them.
__device__ __forceinline__ float warp_sum(float x) {
  FORMWORK_UNROLL
  for (int step = kWarp / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
  FORMWORK_UNROLL
  for (int step = kWarp / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}

/// Sums over a block of whole warps, for all its threads, always in one order; `room`: one float a
/// warp and sum, free again when the next barrier is passed by all.
template <int count>
__device__ __forceinline__ void block_sums(float (&x)[count], float* room) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  FORMWORK_UNROLL
  for (int i = 0; i < count; ++i) x[i] = warp_sum(x[i]);
  if (warps == 1) return;
  if (lane == 0) {
    FORMWORK_UNROLL
    for (int i = 0; i < count; ++i) room[i * warps + warp] = x[i];
  }
  __syncthreads();
  FORMWORK_UNROLL
  for (int i = 0; i < count; ++i) {
    x[i] = 0.0f;
    for (int w = 0; w < warps; ++w) x[i] += room[i * warps + w];
  }
}

__host__ __device__ __forceinline__ constexpr int64_t blocks_for(int64_t items, int64_t each) {
  return (items + each - 1) / each;
}

/// Calls body(T{}, …) with the type that `element` names.
template <class Body>
Status with_type(Element element, Body body) {
  return element == Element::float32 ? body(float{}) : body(Bfloat16{});
}

/// Whether every address and stride lets rows be read by 16 bytes.
template <class... Strides>
bool in_vectors(Element element, const void* data, Strides... strides) {
  [[maybe_unused]] const int64_t each = 16 / size_of(element);
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && ((strides % each == 0) && ...);
}

}  // namespace formwork::FORMWORK_CUDA

// Instructions of the GPU that CUDA C++ has no plain name for, and the launch of a kernel. Compiled
// by nvcc only; tests have an emulation of the same names (tests/kernels/cuda/emulation.h).
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/common.h"

#define FORMWORK_UNROLL _Pragma("unroll")

namespace formwork::FORMWORK_CUDA {

/// The upper half of a float32.
struct Bfloat16 {
  uint16_t bits;
};

/// The memory that the launch asked for, shared by the block's threads.
__device__ __forceinline__ unsigned char* shared_memory() {
  extern __shared__ __align__(16) unsigned char formwork_shared[];
  return formwork_shared;
}

/// Two numbers rounded to nearest even, `low` in the lower half.
__device__ __forceinline__ uint32_t pack_bfloat16(float low, float high) {
  uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

/// c += a b by the warp: a 16x16 by rows, b 16x8 by columns, c 16x8, as fragments of
/// mma.m16n8k16: lane 4g + t has of c the rows g (first two) and g + 8, columns 2t and 2t + 1.
__device__ __forceinline__ void multiply_16x8x16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                                 uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Four 8x8 matrices of bfloat16: lane l names row l % 8 of matrix l / 8 in shared memory, and gets
/// of each matrix the two numbers 2t, 2t + 1 of row g.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const void* row) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

/// The same, of the transposed matrices.
__device__ __forceinline__ void load_matrices_across(uint32_t (&to)[4], const void* row) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

/// Copies 16 aligned bytes to shared memory some time before the wait for their group.
__device__ __forceinline__ void copy_ahead(void* to, const void* from) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
}
/// Ends the group of this thread's copies.
__device__ __forceinline__ void end_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Waits for this thread's copies but those of the last `left` groups.
template <int left>
__device__ __forceinline__ void await_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}

struct Launch {
  dim3 blocks;
  int threads;
  size_t shared_bytes;
  Stream stream;
};

/// Queues kernel(arguments...); a launch without blocks does nothing.
template <class... Parameters, class... Arguments>
Status launch(const Launch& how, void (*kernel)(Parameters...), const Arguments&... arguments) {
  if (how.blocks.x == 0 || how.blocks.y == 0 || how.blocks.z == 0) return 0;
  if (how.shared_bytes > 48 * 1024) {
    const cudaError_t allowed = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(how.shared_bytes));
    if (allowed != cudaSuccess) return allowed;
  }
  kernel<<<how.blocks, how.threads, how.shared_bytes, how.stream>>>(arguments...);
  return cudaGetLastError();
}

}  // namespace formwork::FORMWORK_CUDA

// What callers of the CUDA kernels need to know of all of them. No header of CUDA or libtorch is
// included, so that whoever compiles with neither can read the declarations.
#pragma once

#include <cstdint>

struct CUstream_st;

// Tests compile the kernels a second time, for the CPU, in a namespace of its own.
#ifndef FORMWORK_CUDA
#define FORMWORK_CUDA cuda
#endif

namespace formwork::FORMWORK_CUDA {

/// cudaStream_t. All kernels are queued there and return at once.
using Stream = CUstream_st*;

/// A cudaError_t of the launch; 0 = queued.
using Status = int;

/// How numbers are stored; arithmetic is float32.
enum class Element { float32, bfloat16 };

constexpr int64_t size_of(Element element) {
  return element == Element::float32 ? 4 : 2;
}

/// An array [B,H,N,W] in device memory, numbers of one row next to each other; strides in elements.
struct Heads {
  void* data = nullptr;
  int64_t batch = 0, head = 0, row = 0;
};

}  // namespace formwork::FORMWORK_CUDA

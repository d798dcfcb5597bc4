// A few rows times a weight in 8 or 16 bits; see kernels/packed_linear.h.
#pragma once

#include "kernels/cuda/common.h"

namespace formwork::FORMWORK_CUDA {

/// Most rows of x at once.
constexpr int kFewRows = 8;

/// y = x Wᵀ + bias in float32: x [rows,in], y [rows,out]; W [out,in] is int8 with one scale a row,
/// or bfloat16 where `scale` is nullptr. All contiguous; bias [out] or nullptr. A row of y does not
/// depend on which other rows there are.
struct PackedLinear {
  int rows = 0;
  int64_t in = 0, out = 0;
  const float* x = nullptr;
  const void* weight = nullptr;
  const float* scale = nullptr;
  const float* bias = nullptr;
  float* y = nullptr;
};
Status packed_linear(const PackedLinear& product, Stream stream);

}  // namespace formwork::FORMWORK_CUDA

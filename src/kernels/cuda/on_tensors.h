// What the bindings share: a tensor as the kernels see it. For files that are built with CUDA.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "kernels/cuda/common.h"

namespace formwork::gpu {

/// Makes x's GPU the current one, and gives the stream that PyTorch's own kernels are queued in.
class Place {
 public:
  explicit Place(const at::Tensor& x) : guard_(x.device()) {}
  cuda::Stream stream() const { return c10::cuda::getCurrentCUDAStream().stream(); }

 private:
  c10::cuda::CUDAGuard guard_;
};

inline void succeed(cuda::Status status) {
  C10_CUDA_CHECK(static_cast<cudaError_t>(status));
}

inline cuda::Element element_of(const at::Tensor& x) {
  return x.scalar_type() == at::kFloat ? cuda::Element::float32 : cuda::Element::bfloat16;
}

inline cuda::Heads heads_of(const at::Tensor& x) {
  return {x.data_ptr(), x.stride(0), x.stride(1), x.stride(2)};
}

inline float* floats(const at::Tensor& x) {
  return x.defined() ? x.data_ptr<float>() : nullptr;
}

inline void* data_of(const at::Tensor& x) {
  return x.defined() ? x.data_ptr() : nullptr;
}

/// [B,H,N,W] laid out as [B,N,H,W].
inline at::Tensor merged_heads(const at::Tensor& like, int64_t heads, int64_t rows, int64_t width) {
  return at::empty({like.size(0), rows, heads, width}, like.options()).transpose(1, 2);
}

inline at::Tensor row_numbers(const at::Tensor& x, int64_t rows) {
  return at::empty({rows}, x.options().dtype(at::kFloat));
}

}  // namespace formwork::gpu

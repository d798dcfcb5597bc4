// The CUDA kernels on tensors, for the operators' own entry points. Built where libtorch has CUDA
// (cmake/kernel_library.cmake); elsewhere every tensor on a GPU goes to the plain references.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/attention.h"
#include "kernels/packed_linear.h"
#include "kernels/projected_cross_entropy.h"
#include "kernels/rms_norm.h"
#include "kernels/rotate.h"

#ifndef FORMWORK_CUDA_KERNELS
#define FORMWORK_CUDA_KERNELS 0
#endif

namespace formwork::gpu {

constexpr bool kBuilt = FORMWORK_CUDA_KERNELS;

/// Whether the kernels take numbers of x's type where x is.
inline bool serves(const at::Tensor& x) {
  return kBuilt && x.is_cuda() &&
         (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16);
}

/// Whether heads are narrow enough, all of one served type, and the rule asks for nothing but
/// causal and key_valid.
bool serves_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                      const AttentionRule& rule);
// What cpu::attention_forward and the others do; a key_valid of the rule is bool and contiguous.
AttentionResult attention_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const AttentionRule& rule);
cpu::AttentionBackward attention_backward(const at::Tensor& gradient, const at::Tensor& q,
                                          const at::Tensor& k, const at::Tensor& v,
                                          const AttentionResult& forward,
                                          const AttentionRule& rule);

/// Whether rows are narrow enough.
bool serves_norm(const at::Tensor& x);
cpu::RmsNormForward rms_norm_forward(const at::Tensor& x, const at::Tensor& residual,
                                     const at::Tensor& scale, double eps, cpu::RmsForm form);
cpu::RmsNormBackward rms_norm_backward(const at::Tensor& gradient, const at::Tensor& sum_gradient,
                                       const at::Tensor& x, const cpu::RmsNormForward& forward,
                                       const at::Tensor& scale, cpu::RmsForm form);

/// The most dimensions of x that rotate_pairs here takes.
constexpr int64_t kMostRotatedDimensions = 4;
at::Tensor rotate_pairs(const at::Tensor& x, const at::Tensor& cosine, const at::Tensor& sine,
                        Pairing pairing, bool backwards);

/// logits [n,V] become the gradients of their losses, which go to losses [n] float32; where no
/// gradient is wanted they stay.
void cross_entropy(const at::Tensor& logits, const at::Tensor& target, const CrossEntropyRule& rule,
                   const at::Tensor& losses, bool wanted);

/// x [rows,in] contiguous, at most kPackedRows rows.
at::Tensor packed_linear(const at::Tensor& x, const PackedWeight& weight, const at::Tensor& bias);

}  // namespace formwork::gpu

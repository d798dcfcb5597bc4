// The CUDA kernels on tensors, for the operators' own entry points. Built where libtorch has CUDA
// (cmake/kernel_library.cmake); elsewhere every tensor on a GPU goes to the plain references.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/cuda/optimizer.h"
#include "kernels/layer_norm.h"
#include "kernels/matrix_state.h"
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
// What cpu::add_layer_norm_forward and its backward do.
cpu::LayerNormForward add_layer_norm_forward(const at::Tensor& x, const at::Tensor& residual,
                                             const at::Tensor& weight, const at::Tensor& bias,
                                             double eps);
cpu::LayerNormBackward add_layer_norm_backward(const at::Tensor& gradient,
                                               const at::Tensor& sum_gradient,
                                               const cpu::LayerNormForward& forward,
                                               const at::Tensor& weight);

/// Whether the extras ask for a factor alone, and the function is one of gated linear units.
bool serves_activation(const at::Tensor& z, Activation function, const ActivationExtras& extras);
// What cpu::activation_forward and cpu::activation_backward do.
void activation_forward(const at::Tensor& z, Activation function, const ActivationExtras& extras,
                        const at::Tensor& y);
cpu::ActivationBackward activation_backward(const at::Tensor& gradient, const at::Tensor& z,
                                            Activation function, const ActivationExtras& extras);

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

/// Whether rows are narrow enough, all of one served type, and a state, if asked for, is float32.
bool serves_matrix_scan(const MatrixState& all);
/// matrix_state_scan of at least one token, its state included; knows no gradients.
at::Tensor matrix_scan_forward(const MatrixState& all);
struct MatrixScanBackward {
  at::Tensor q, k, v, log_gate;  // gradients; log_gate's is undefined where there is no gate
};
/// Of a scan without a state.
MatrixScanBackward matrix_scan_backward(const at::Tensor& gradient, const MatrixState& all);

/// Whether a sparse tensor is rows [D] of a served type, at least one of them.
bool serves_row_sums(const at::Tensor& sparse);
/// sparse.coalesce(), equal rows added up in the order of their places.
at::Tensor coalesced(const at::Tensor& sparse);

/// Whether all are of one served type on one GPU, each contiguous.
bool serves_arrays(at::TensorList arrays);
/// Brings gradients to a common L2 norm of at most max_norm, if it is finite; the norm before, a
/// float32 scalar on the GPU.
at::Tensor clip_gradients(at::TensorList gradients, double max_norm);

/// Parameters that one step of Adam moves, float32 and contiguous each.
struct AdamTensors {
  at::TensorList values, gradients, means, squares, largest;  // largest: with amsgrad, else empty
};
void adam_step(const AdamTensors& tensors, const cuda::AdamStep& step);

}  // namespace formwork::gpu

// Norms of tokens fused with the residual addition before them; see kernels/rms_norm.h.
#pragma once

#include "kernels/cuda/common.h"

namespace formwork::FORMWORK_CUDA {

/// y = (x - mean) · r · scale + shift. layer: r = 1 / sqrt(variance + eps). All others have mean 0:
/// rms: 1 / sqrt(mean(x²) + eps); crms: 1 / sqrt((sum(x²) + sum(x)²) / (D + 1) + eps); at_least: 1
/// / max(sqrt(mean(x²)), eps); outside: 1 / (sqrt(mean(x²)) + eps).
enum class NormForm { layer, rms, crms, at_least, outside };

/// The widest rows of norm_backward.
constexpr int kWidestNorm = 12288;

/// A norm of contiguous rows [rows,D].
struct Norm {
  Element element = Element::float32;
  NormForm form = NormForm::rms;
  int64_t rows = 0;
  int width = 0;
  float eps = 0.0f;
  const void* x = nullptr;
  const void* residual = nullptr;  // added to x first, or nullptr
  void* sum = nullptr;             // x + residual, rounded; where there is a residual
  void* y = nullptr;
  const float* scale = nullptr;  // [D] or nullptr = 1
  const float* shift = nullptr;  // [D] or nullptr = 0
  /// [rows] each, for the backward pass: r; the row's mean (layer) or sum (crms); and what r
  /// changes by for a channel x of the row, over -x (not of layer).
  float* inverse = nullptr;
  float* first = nullptr;
  float* slope = nullptr;
};
Status norm_forward(const Norm& norm, Stream stream);

/// Rows of partial sums that norm_backward needs room for.
constexpr int kNormPartials = 384;

/// x of `norm` is what was normed (the sum, where there was a residual); inverse, first and slope
/// as the forward pass left them.
struct NormGradients {
  const void* y = nullptr;    // given: the gradient of y
  const void* sum = nullptr;  // given: what is added to x's gradient, or nullptr
  void* x = nullptr;          // of x, and of the residual too
  float* scale = nullptr;     // [D] or nullptr = not wanted
  float* shift = nullptr;     // [D] or nullptr = not wanted
  float* partials = nullptr;  // room for [2, kNormPartials, D] where one of them is wanted
};
Status norm_backward(const Norm& norm, const NormGradients& gradients, Stream stream);

}  // namespace formwork::FORMWORK_CUDA

// Division by the root mean square, fused with its scale and, optionally, a residual addition.
#pragma once

#include <ATen/core/Tensor.h>

namespace formwork {

/// y = x / sqrt(mean(x²) + eps) · scale over the last dimension; x [..., D] → [..., D] of x's type.
/// `scale` [D] or undefined (1). Statistics and products in float32 (float64 for float64 x), one
/// rounding at the end. Zhang, Sennrich 2019, arXiv 1910.07467.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& scale, double eps);

/// The same for vectors x [..., n] that stand for n + 1 channels with mean 0, the last of which is
/// left out because it is minus the sum of the others: y = x / sqrt((sum(x²) + sum(x)²) / (n + 1)
/// + eps) · scale. Jiang et al. 2023, arXiv 2305.14858.
at::Tensor crms_norm(const at::Tensor& x, const at::Tensor& scale, double eps);

struct AddedRmsNorm {
  at::Tensor sum;  // x + residual
  at::Tensor y;    // its norm
};
/// The residual addition and the norm after it in one pass: bit for bit what the two steps give.
AddedRmsNorm add_rms_norm(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& scale,
                          double eps);

/// The same by plain operators, on any device.
at::Tensor rms_norm_reference(const at::Tensor& x, const at::Tensor& scale, double eps);
at::Tensor crms_norm_reference(const at::Tensor& x, const at::Tensor& scale, double eps);

namespace cpu {

/// Which mean square: of the channels there are, or also of the one that crms_norm leaves out.
enum class Channels { all, one_left_out };

struct RmsNormForward {
  at::Tensor y, sum;        // like x; sum is undefined without a residual
  at::Tensor inverse_root;  // [rows], of the type computed in
  at::Tensor row_sum;       // [rows], the sums over the channels; undefined with Channels::all
};
/// x and residual (may be undefined) contiguous; scale [D] of the type computed in, or undefined.
RmsNormForward rms_norm_forward(const at::Tensor& x, const at::Tensor& residual,
                                const at::Tensor& scale, double eps,
                                Channels channels = Channels::all);

struct RmsNormBackward {
  at::Tensor x, scale;  // gradients; scale [D] is undefined where there is none
};
/// `sum_gradient` (may be undefined) is added to the gradient of x; `row_sum` as the forward gave
/// it. The scale's gradient is summed in an order that does not depend on the number of threads.
RmsNormBackward rms_norm_backward(const at::Tensor& gradient, const at::Tensor& sum_gradient,
                                  const at::Tensor& x, const at::Tensor& inverse_root,
                                  const at::Tensor& scale, const at::Tensor& row_sum = {});

}  // namespace cpu
}  // namespace formwork

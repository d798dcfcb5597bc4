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

/// y = x / max(sqrt(mean(x²)), least) · scale, the same way.
at::Tensor rms_norm_at_least(const at::Tensor& x, const at::Tensor& scale, double least);

/// y = x / (sqrt(mean(x²)) + eps) · scale, the same way.
at::Tensor rms_norm_outside(const at::Tensor& x, const at::Tensor& scale, double eps);

struct AddedNorm {
  at::Tensor sum;  // x + residual
  at::Tensor y;    // its norm
};
/// The residual addition and the norm after it in one pass: bit for bit what the two steps give.
AddedNorm add_rms_norm(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& scale,
                       double eps);
AddedNorm add_crms_norm(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& scale,
                        double eps);

/// The same by plain operators, on any device.
at::Tensor rms_norm_reference(const at::Tensor& x, const at::Tensor& scale, double eps);
at::Tensor crms_norm_reference(const at::Tensor& x, const at::Tensor& scale, double eps);
at::Tensor rms_norm_at_least_reference(const at::Tensor& x, const at::Tensor& scale, double least);
at::Tensor rms_norm_outside_reference(const at::Tensor& x, const at::Tensor& scale, double eps);

namespace cpu {

/// What x is multiplied with: rsqrt(mean square + eps), over the channels there are (plain) or also
/// the one that crms_norm leaves out (left_out), 1 / max(root mean square, eps) (at_least), or
/// 1 / (root mean square + eps) (outside).
enum class RmsForm { plain, left_out, at_least, outside };

struct RmsNormForward {
  at::Tensor y, sum;        // like x; sum is undefined without a residual
  at::Tensor inverse_root;  // [rows], of the type computed in
  at::Tensor slope;         // [rows], -1/x of inverse_root's derivative by a channel x of the row
  at::Tensor row_sum;       // [rows], the sums over the channels; RmsForm::left_out only
};
/// x and residual (may be undefined) contiguous; scale [D] of the type computed in, or undefined.
RmsNormForward rms_norm_forward(const at::Tensor& x, const at::Tensor& residual,
                                const at::Tensor& scale, double eps, RmsForm form = RmsForm::plain);

struct RmsNormBackward {
  at::Tensor x, scale;  // gradients; scale [D] is undefined where there is none
};
/// `x` is what was normed, `sum_gradient` (may be undefined) is added to its gradient. The scale's
/// gradient is summed in an order that does not depend on the number of threads.
RmsNormBackward rms_norm_backward(const at::Tensor& gradient, const at::Tensor& sum_gradient,
                                  const at::Tensor& x, const RmsNormForward& forward,
                                  const at::Tensor& scale);

}  // namespace cpu
}  // namespace formwork

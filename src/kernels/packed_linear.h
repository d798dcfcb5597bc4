// Linear maps whose weights are held in 8 or 16 bits, for decoding.
#pragma once

#include <ATen/core/Tensor.h>

namespace formwork {

/// How a weight W [out,in] is held. int8: q = round(W / s), from -127 to 127, with one float32
/// scale s = max |row| / 127 a row, so that |W - s q| <= s / 2. bfloat16: rounded to nearest even.
enum class PackedForm { int8, bfloat16 };

/// A weight in one of the forms.
struct PackedWeight {
  at::Tensor values;  // [out,in] int8 or bfloat16, contiguous
  at::Tensor scale;   // [out] float32, or undefined for bfloat16

  /// The float32 matrix [out,in] that it stands for.
  at::Tensor unpacked() const;
  int64_t bytes() const;
};

/// A float32 weight [out,in] on the CPU in `form`; others are refused. A row of zeros stays zeros;
/// a row with an entry that is no finite number comes out of int8 as NaN.
PackedWeight pack_weight(const at::Tensor& weight, PackedForm form);

/// y = x Wᵀ + bias in float32, x [..., in] → [..., out]; bias [out] float32 or undefined. Up to
/// kPackedRows rows of x (decoding) read each weight once, and their numbers depend neither on the
/// threads nor on the other rows; more rows (a prompt) unpack some of W at a time and multiply as
/// at::linear does. Other types, other devices (but GPUs in a build with CUDA) and inputs that want
/// gradients are refused. Weights alone are rounded, as in Frantar et al. 2022, arXiv 2210.17323;
/// scales by the largest entry as in Dettmers et al. 2022, arXiv 2208.07339.
at::Tensor packed_linear(const at::Tensor& x, const PackedWeight& weight, const at::Tensor& bias);

/// The same by plain operators.
at::Tensor packed_linear_reference(const at::Tensor& x, const PackedWeight& weight,
                                   const at::Tensor& bias);

/// Most rows of x that are multiplied with the packed weight itself.
constexpr int64_t kPackedRows = 8;

namespace cpu {

/// x [rows,in] contiguous float32 and bias as above → y [rows,out], sizes checked.
at::Tensor packed_linear(const at::Tensor& x, const PackedWeight& weight, const at::Tensor& bias);
/// The two ways of it, for any number of rows; a few also take values of float32 without a scale.
void packed_linear_few(const at::Tensor& x, const PackedWeight& weight, const at::Tensor& bias,
                       const at::Tensor& y);
void packed_linear_many(const at::Tensor& x, const PackedWeight& weight, const at::Tensor& bias,
                        const at::Tensor& y);
/// values and scale of the int8 form.
PackedWeight quantise_rows(const at::Tensor& weight);
/// Rows first .. first + count - 1 of the matrix, to `out` [count,in].
void unpack_rows(const PackedWeight& weight, int64_t first, const at::Tensor& out);

}  // namespace cpu
}  // namespace formwork

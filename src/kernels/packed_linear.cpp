#include "kernels/packed_linear.h"

#include <c10/core/GradMode.h>

#include "core/error.h"
#include "kernels/cuda/binding.h"

namespace formwork {
namespace {

constexpr const char* kPacked = "packed_linear";

void check_packed(const at::Tensor& x, const PackedWeight& weight, const at::Tensor& bias) {
  const at::Tensor& w = weight.values;
  const bool int8 = w.scalar_type() == at::kChar;
  check(x.scalar_type() == at::kFloat && (int8 || w.scalar_type() == at::kBFloat16), kPacked,
        "found x of ", x.scalar_type(), " and a weight of ", w.scalar_type(),
        "; supported: x of Float and a weight of Char (int8) or BFloat16");
  const bool together = x.device() == w.device() && (x.is_cpu() || gpu::serves(x));
  check(together, kPacked, "found x on ", x.device().str(), " and the weight on ", w.device().str(),
        "; supported: both on the CPU", gpu::kBuilt ? ", or on one GPU" : "");
  check(w.dim() == 2 && x.dim() >= 1 && x.size(-1) == w.size(1), kPacked, "found x ", x.sizes(),
        " and a weight ", w.sizes(), "; valid: x [..., in] and a weight [out, in]");
  const at::IntArrayRef rows = w.sizes().slice(0, 1);
  const auto fits = [&](const at::Tensor& vector) {
    return vector.device() == x.device() && vector.scalar_type() == at::kFloat &&
           vector.sizes() == rows;
  };
  check(int8 ? weight.scale.defined() && fits(weight.scale) : !weight.scale.defined(), kPacked,
        "found a weight of ", w.scalar_type(), weight.scale.defined() ? " with" : " without",
        " a scale; valid: one float32 scale a row for int8, and none for bfloat16");
  check(!bias.defined() || fits(bias), kPacked, "the bias is not float32 ", rows,
        "; valid: one float32 number a row of the weight, or none");
}

}  // namespace

at::Tensor PackedWeight::unpacked() const {
  const at::Tensor wide = at::empty(values.sizes(), values.options().dtype(at::kFloat));
  cpu::unpack_rows(*this, 0, wide);
  return wide;
}

int64_t PackedWeight::bytes() const {
  const size_t scales = scale.defined() ? scale.nbytes() : 0;
  return static_cast<int64_t>(values.nbytes() + scales);
}

PackedWeight pack_weight(const at::Tensor& weight, PackedForm form) {
  check(weight.dim() == 2 && weight.scalar_type() == at::kFloat && weight.is_cpu(), "pack_weight",
        "found a weight of ", weight.scalar_type(), " ", weight.sizes(), " on ",
        weight.device().str(), "; supported: a matrix of Float on the CPU");
  const at::Tensor w = weight.detach().contiguous();
  if (form == PackedForm::int8) return cpu::quantise_rows(w);
  return {w.to(at::kBFloat16), {}};
}

at::Tensor packed_linear(const at::Tensor& x, const PackedWeight& weight, const at::Tensor& bias) {
  check_packed(x, weight, bias);
  check(!c10::GradMode::is_enabled() ||
            !(x.requires_grad() || (bias.defined() && bias.requires_grad())),
        kPacked,
        "a packed weight is for inference and keeps no gradients, but x or the bias wants one; "
        "valid: a call under c10::NoGradGuard or torch.no_grad(), or a weight that is not packed");
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = weight.values.size(0);
  const int64_t rows = c10::multiply_integers(x.sizes().slice(0, x.dim() - 1));
  const at::Tensor flat = x.reshape({rows, x.size(-1)}).contiguous();
  const PackedWeight whole{weight.values.contiguous(),
                           weight.scale.defined() ? weight.scale.contiguous() : weight.scale};
  if constexpr (gpu::kBuilt) {
    if (x.is_cuda() && rows > kPackedRows) return packed_linear_reference(x, weight, bias);
    if (x.is_cuda())
      return gpu::packed_linear(flat, whole, bias.defined() ? bias.contiguous() : bias).view(shape);
  }
  return cpu::packed_linear(flat, whole, bias.defined() ? bias.contiguous() : bias).view(shape);
}

at::Tensor packed_linear_reference(const at::Tensor& x, const PackedWeight& weight,
                                   const at::Tensor& bias) {
  check_packed(x, weight, bias);
  at::Tensor wide = weight.values.to(at::kFloat);
  if (weight.scale.defined()) wide = wide * weight.scale.unsqueeze(1);
  return at::linear(x, wide, bias);
}

}  // namespace formwork

#include "kernels/laid_out_linear.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/GradMode.h>

#include "core/processor.h"
#include "kernels/matmul.h"

namespace formwork {
namespace {

using Reorder = Tensor(const Tensor&, std::optional<int64_t>);

/// With fewer rows, reading the weight in its own order is faster.
constexpr int64_t kFewestLaidOutRows = 16;

bool laid_out_type(at::ScalarType type) {
  return type == at::kFloat || (type == at::kBFloat16 && multiplies_bfloat16());
}

}  // namespace

Tensor lay_out_weight(const Tensor& weight) {
  if (!has_onednn() || forced_library().value_or(MatmulLibrary::onednn) != MatmulLibrary::onednn ||
      !weight.is_cpu() || weight.numel() == 0 || !laid_out_type(weight.scalar_type()))
    return {};
  static const auto found =
      c10::Dispatcher::singleton().findSchema({"mkldnn::_reorder_linear_weight", ""});
  if (!found) return {};
  const c10::NoGradGuard no_grad;
  return found->typed<Reorder>().call(weight.detach().contiguous(), std::nullopt);
}

bool suits_layout(const Tensor& x, const Tensor& laid_out) {
  return laid_out.defined() && x.is_cpu() && x.dim() >= 2 &&
         x.scalar_type() == laid_out.scalar_type() && !at::GradMode::is_enabled() &&
         !at::autocast::is_autocast_enabled(at::kCPU) &&
         x.numel() >= kFewestLaidOutRows * x.size(-1) && x.numel() > 0;
}

Tensor laid_out_linear(const Tensor& x, const Tensor& laid_out, const Tensor& bias) {
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = laid_out.size(0);
  return product_by(MatmulLibrary::onednn, x.flatten(0, -2).contiguous(), laid_out, bias)
      .view(shape);
}

}  // namespace formwork

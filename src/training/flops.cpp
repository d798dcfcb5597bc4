#include "training/flops.h"

#include <ATen/record_function.h>

#include <atomic>
#include <cstring>
#include <string_view>

namespace formwork {
namespace {

std::atomic<double> total{0.0};

double size_of(const c10::IValue& value, int64_t dimension) {
  return static_cast<double>(value.toTensor().size(dimension));
}

double product_flops(const c10::IValue& a, const c10::IValue& b) {
  const at::Tensor& left = a.toTensor();
  return 2.0 * static_cast<double>(left.numel()) * size_of(b, -1);
}

/// Two products of Nq × Nk × K a head, half of it when causal.
double attention_flops(c10::ArrayRef<const c10::IValue> in, size_t causal_argument) {
  const at::Tensor& q = in[0].toTensor();
  const double pairs = static_cast<double>(q.numel()) * size_of(in[1], -2);
  const bool causal =
      in.size() > causal_argument && in[causal_argument].isBool() && in[causal_argument].toBool();
  return 4.0 * pairs * (causal ? 0.5 : 1.0);
}

/// Attention of libtorch, on the CPU and on GPUs: q and k come first.
struct LibtorchAttention {
  std::string_view name;
  size_t causal_argument;
};
constexpr LibtorchAttention kLibtorchAttentions[] = {
    {"aten::_scaled_dot_product_flash_attention_for_cpu", 4},
    {"aten::_scaled_dot_product_flash_attention", 4},
    {"aten::_scaled_dot_product_efficient_attention", 6},
    {"aten::_scaled_dot_product_cudnn_attention", 6}};
/// Counted behind the gradient.
constexpr LibtorchAttention kLibtorchBackwards[] = {
    {"aten::_scaled_dot_product_flash_attention_for_cpu_backward", 6},
    {"aten::_scaled_dot_product_flash_attention_backward", 10},
    {"aten::_scaled_dot_product_efficient_attention_backward", 10},
    {"aten::_scaled_dot_product_cudnn_attention_backward", 13}};

double flops_of(std::string_view name, c10::ArrayRef<const c10::IValue> in) {
  if (name == "aten::mm" || name == "aten::bmm" || name == "formwork::few_rows" ||
      name == "formwork::matrix_product")
    return product_flops(in[0], in[1]);
  if (name == "aten::addmm" || name == "aten::baddbmm" || name == "aten::addmm_" ||
      name == "aten::baddbmm_")
    return product_flops(in[1], in[2]);
  if (name == "mkldnn::_linear_pointwise")
    return 2.0 * static_cast<double>(in[0].toTensor().numel()) * size_of(in[1], 0);
  if (name == "aten::addmv") return 2.0 * static_cast<double>(in[1].toTensor().numel());
  if (name == "aten::mv" || name == "aten::dot")
    return 2.0 * static_cast<double>(in[0].toTensor().numel());
  for (const LibtorchAttention& entry : kLibtorchAttentions)
    if (name == entry.name) return attention_flops(in, entry.causal_argument);
  // The backward recomputes the scores: five products for the forward's two. Its first argument is
  // the gradient, shaped like the queries.
  for (const LibtorchAttention& entry : kLibtorchBackwards)
    if (name == entry.name) return 2.5 * attention_flops(in.slice(1), entry.causal_argument);
  if (name == "formwork::attention") return attention_flops(in, 2);
  if (name == "formwork::attention_backward") return 2.5 * attention_flops(in, 2);
  if (name == "aten::convolution") {
    const at::Tensor& weight = in[1].toTensor();
    const double outputs = static_cast<double>(in[0].toTensor().numel()) / size_of(in[0], 1);
    return 2.0 * outputs * static_cast<double>(weight.numel());
  }
  return 0.0;
}

std::unique_ptr<at::ObserverContext> on_operator(const at::RecordFunction& function) {
  const double flops = flops_of(function.name(), function.inputs());
  if (flops > 0.0) total.fetch_add(flops, std::memory_order_relaxed);
  return nullptr;
}

}  // namespace

FlopCounter::FlopCounter()
    : handle_(at::addGlobalCallback(at::RecordFunctionCallback(on_operator)
                                        .needsInputs(true)
                                        .scopes({at::RecordScope::FUNCTION}))),
      start_(total.load()) {}

FlopCounter::~FlopCounter() {
  at::removeCallback(handle_);
}

double FlopCounter::count() const {
  return total.load() - start_;
}

}  // namespace formwork

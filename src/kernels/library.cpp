// The operators in PyTorch's dispatcher, as torch.ops.formwork.* for programs that load
// libformwork_kernels.so. They carry their own gradients and serve every device.
#include <torch/library.h>

#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/layer_norm.h"
#include "kernels/linear_map.h"
#include "kernels/matrix_state.h"
#include "kernels/packed_linear.h"
#include "kernels/projected_cross_entropy.h"
#include "kernels/rms_norm.h"
#include "kernels/rotate.h"

namespace formwork {
namespace {

using at::Tensor;
using Maybe = std::optional<Tensor>;

Tensor rms_norm_operator(const Tensor& x, const Maybe& scale, double eps) {
  return rms_norm(x, scale.value_or(Tensor()), eps);
}

std::tuple<Tensor, Tensor> pair_of(const AddedNorm& result) {
  return {result.y, result.sum};
}

std::tuple<Tensor, Tensor> add_rms_norm_operator(const Tensor& x, const Tensor& residual,
                                                 const Maybe& scale, double eps) {
  return pair_of(add_rms_norm(x, residual, scale.value_or(Tensor()), eps));
}

std::tuple<Tensor, Tensor> add_crms_norm_operator(const Tensor& x, const Tensor& residual,
                                                  const Maybe& scale, double eps) {
  return pair_of(add_crms_norm(x, residual, scale.value_or(Tensor()), eps));
}

std::tuple<Tensor, Tensor> add_layer_norm_operator(const Tensor& x, const Tensor& residual,
                                                   const Maybe& weight, const Maybe& bias,
                                                   double eps) {
  return pair_of(
      add_layer_norm(x, residual, weight.value_or(Tensor()), bias.value_or(Tensor()), eps));
}

Tensor linear_operator(const Tensor& x, const Tensor& weight, const Maybe& bias,
                       c10::string_view function, const Maybe& residual) {
  return linear_map(x, weight,
                    {bias.value_or(Tensor()), activation_named(std::string(function)),
                     residual.value_or(Tensor())});
}

Tensor activate_operator(const Tensor& z, c10::string_view function, const Maybe& bias,
                         const Maybe& factor, const Maybe& residual) {
  return activate(
      z, activation_named(std::string(function)),
      {bias.value_or(Tensor()), factor.value_or(Tensor()), residual.value_or(Tensor())});
}

Tensor rotate_pairs_operator(const Tensor& x, const Tensor& cosine, const Tensor& sine,
                             bool interleaved) {
  return rotate_pairs(x, cosine, sine, interleaved ? Pairing::interleaved : Pairing::half);
}

std::tuple<Tensor, Tensor> attention_with_log_sum_operator(
    const Tensor& q, const Tensor& k, const Tensor& v, const Maybe& key_valid, bool causal,
    double scale, std::optional<int64_t> back, std::optional<int64_t> ahead, const Maybe& bias,
    const Maybe& offset_bias, const Maybe& open_blocks, int64_t block, const Maybe& cosine,
    const Maybe& sine, bool interleaved) {
  AttentionRule rule{causal, scale, key_valid.value_or(Tensor()), back, ahead};
  rule.bias = bias.value_or(Tensor());
  rule.offset_bias = offset_bias.value_or(Tensor());
  rule.open_blocks = open_blocks.value_or(Tensor());
  rule.block = block;
  rule.cosine = cosine.value_or(Tensor());
  rule.sine = sine.value_or(Tensor());
  rule.pairing = interleaved ? Pairing::interleaved : Pairing::half;
  const AttentionResult result = attention_with_log_sum(q, k, v, rule);
  return {result.out, result.log_sum_exp};
}

Tensor attention_operator(const Tensor& q, const Tensor& k, const Tensor& v, const Maybe& key_valid,
                          bool causal, double scale, std::optional<int64_t> back,
                          std::optional<int64_t> ahead, const Maybe& bias, const Maybe& offset_bias,
                          const Maybe& open_blocks, int64_t block, const Maybe& cosine,
                          const Maybe& sine, bool interleaved) {
  return std::get<0>(attention_with_log_sum_operator(q, k, v, key_valid, causal, scale, back, ahead,
                                                     bias, offset_bias, open_blocks, block, cosine,
                                                     sine, interleaved));
}

Tensor projected_cross_entropy_operator(const Tensor& x, const Tensor& weight, const Maybe& bias,
                                        const Tensor& target, double smoothing, double z_loss) {
  return projected_cross_entropy(x, weight, bias.value_or(Tensor()), target, {smoothing, z_loss});
}

std::tuple<Tensor, Tensor> matrix_state_operator(const Tensor& q, const Tensor& k, const Tensor& v,
                                                 const Maybe& log_gate, const Maybe& state,
                                                 int64_t chunk) {
  Tensor sum = state.value_or(Tensor());
  const Tensor y = matrix_state_scan({q, k, v, log_gate.value_or(Tensor()), &sum}, chunk);
  return {y, sum};
}

Tensor packed_linear_operator(const Tensor& x, const Tensor& weight, const Maybe& scale,
                              const Maybe& bias) {
  return packed_linear(x, {weight, scale.value_or(Tensor())}, bias.value_or(Tensor()));
}

std::tuple<Tensor, Tensor> pack_weight_operator(const Tensor& weight) {
  const PackedWeight packed = pack_weight(weight, PackedForm::int8);
  return {packed.values, packed.scale};
}

}  // namespace

TORCH_LIBRARY(formwork, library) {
  library.def("rms_norm(Tensor x, Tensor? scale, float eps) -> Tensor");
  library.def(
      "add_rms_norm(Tensor x, Tensor residual, Tensor? scale, float eps) -> (Tensor y, "
      "Tensor sum)");
  library.def(
      "add_crms_norm(Tensor x, Tensor residual, Tensor? scale, float eps) -> (Tensor y, "
      "Tensor sum)");
  library.def(
      "add_layer_norm(Tensor x, Tensor residual, Tensor? weight, Tensor? bias, float eps) -> "
      "(Tensor y, Tensor sum)");
  library.def(
      "linear(Tensor x, Tensor weight, Tensor? bias=None, str function='identity', Tensor? "
      "residual=None) -> Tensor");
  library.def(
      "activate(Tensor z, str function, Tensor? bias=None, Tensor? factor=None, Tensor? "
      "residual=None) -> Tensor");
  library.def("rotate_pairs(Tensor x, Tensor cosine, Tensor sine, bool interleaved) -> Tensor");
  const std::string attention =
      "(Tensor q, Tensor k, Tensor v, Tensor? key_valid, bool causal, float scale, int? back=None, "
      "int? ahead=None, Tensor? bias=None, Tensor? offset_bias=None, Tensor? open_blocks=None, "
      "int block=64, Tensor? cosine=None, Tensor? sine=None, bool interleaved=False)";
  library.def(("attention" + attention + " -> Tensor").c_str());
  library.def(
      ("attention_with_log_sum" + attention + " -> (Tensor out, Tensor log_sum_exp)").c_str());
  library.def(
      "projected_cross_entropy(Tensor x, Tensor weight, Tensor? bias, Tensor target, float "
      "smoothing, float z_loss) -> Tensor");
  library.def(
      "matrix_state_scan(Tensor q, Tensor k, Tensor v, Tensor? log_gate=None, Tensor? state=None, "
      "int chunk=64) -> (Tensor y, Tensor state)");
  library.def("packed_linear(Tensor x, Tensor weight, Tensor? scale, Tensor? bias) -> Tensor");
  library.def("pack_weight(Tensor weight) -> (Tensor values, Tensor scale)");
}

TORCH_LIBRARY_IMPL(formwork, CompositeImplicitAutograd, library) {
  library.impl("rms_norm", rms_norm_operator);
  library.impl("add_rms_norm", add_rms_norm_operator);
  library.impl("add_crms_norm", add_crms_norm_operator);
  library.impl("add_layer_norm", add_layer_norm_operator);
  library.impl("linear", linear_operator);
  library.impl("activate", activate_operator);
  library.impl("rotate_pairs", rotate_pairs_operator);
  library.impl("attention", attention_operator);
  library.impl("attention_with_log_sum", attention_with_log_sum_operator);
  library.impl("projected_cross_entropy", projected_cross_entropy_operator);
  library.impl("matrix_state_scan", matrix_state_operator);
  library.impl("packed_linear", packed_linear_operator);
  library.impl("pack_weight", pack_weight_operator);
}

}  // namespace formwork

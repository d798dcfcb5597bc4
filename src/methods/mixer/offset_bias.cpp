#include "methods/mixer/offset_bias.h"

#include <cmath>

#include "methods/position/t5_relative.h"

namespace formwork {
namespace {

constexpr int64_t kBuckets = 32, kFarthest = 128;

/// softplus⁻¹ of ALiBi's slopes, so that heads look differently far.
Tensor first_decays(int64_t heads) {
  const Tensor head = at::arange(1, heads + 1, at::TensorOptions(at::kDouble));
  const Tensor slopes = at::exp2(head * (-8.0 / static_cast<double>(heads)));
  return slopes.expm1().log().to(at::kFloat);
}

}  // namespace

OffsetBias::OffsetBias(const OffsetBiasOptions& options, int64_t heads)
    : options_(options), heads_(heads) {
  if (options_.kind == "table")
    table_ = add_parameter("rel_bias", at::zeros({heads, 2 * options_.max_distance - 1}),
                           Role::position);
  if (options_.kind == "t5_bucket")
    table_ = add_parameter("rel_bias", at::zeros({heads, kBuckets}), Role::position);
  if (options_.kind == "exponential")
    decay_ = add_parameter("decay", first_decays(heads), Role::position);
}

Tensor OffsetBias::rate(at::ScalarType type) const {
  if (decay_.defined()) return at::softplus(decay_.to(type));
  return at::zeros({heads_}, at::TensorOptions(type));
}

Tensor OffsetBias::of(const Tensor& relative, at::ScalarType type) const {
  if (recurrent()) {
    const Tensor distance = relative.abs().to(type);
    return -rate(type)
                .to(distance.device())
                .unsqueeze(1)
                .mul(distance.flatten())
                .unflatten(1, relative.sizes());
  }
  const int64_t last = options_.max_distance - 1;
  const Tensor column = options_.kind == "table"
                            ? relative.clamp(-last, last) + last
                            : t5_bucket(relative, !options_.causal, kBuckets, kFarthest);
  return table_.index_select(1, column.flatten()).unflatten(1, relative.sizes()).to(type);
}

Tensor OffsetBias::factors(int64_t n, at::ScalarType type) const {
  const auto integers = at::TensorOptions(at::kLong).device(table_.defined()   ? table_.device()
                                                            : decay_.defined() ? decay_.device()
                                                                               : at::kCPU);
  const Tensor b = of(at::arange(1 - n, options_.causal ? 1 : n, integers), type);
  const Tensor c = (b - b.detach().amax(1, true)).exp();
  return options_.causal ? at::constant_pad_nd(c, {0, n - 1}) : c;
}

}  // namespace formwork

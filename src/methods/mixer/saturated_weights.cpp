#include "methods/mixer/saturated_weights.h"

#include <algorithm>
#include <limits>

namespace formwork {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

/// True at one key a row.
Tensor one_of_each(const Tensor& index, const Tensor& like) {
  return at::zeros(like.sizes(), like.options().dtype(at::kBool))
      .scatter_(-1, index.unsqueeze(-1), true);
}

}  // namespace

Tensor chosen_keys(const Tensor& scores, Chosen which, double tolerance, const Tensor& priority) {
  const Tensor open = scores > kMinusInfinity;
  // argmax gives the first of equal numbers.
  if (which == Chosen::hard_left) return one_of_each(scores.argmax(-1), scores).logical_and_(open);
  if (which == Chosen::hard_right) {
    const Tensor from_behind = scores.flip({-1}).argmax(-1);
    return one_of_each(scores.size(-1) - 1 - from_behind, scores).logical_and_(open);
  }
  const Tensor largest = scores.amax(-1, true);
  const Tensor tied =
      (scores >= (tolerance > 0.0 ? largest - tolerance : largest)).logical_and_(open);
  if (which == Chosen::saturated) return tied;
  const Tensor drawn = at::where(tied, priority, at::full({}, -1.0, priority.options()));
  return one_of_each(drawn.argmax(-1), scores).logical_and_(tied);
}

Tensor chosen_weights(const Tensor& chosen, at::ScalarType type) {
  return chosen.to(type) / chosen.sum(-1, true).clamp_min(1).to(type);
}

Tensor mean_of_chosen(const Tensor& chosen, const Tensor& v) {
  const at::ScalarType wide = at::promote_types(v.scalar_type(), at::kFloat);
  const int64_t groups = chosen.size(-3) / v.size(-3);
  const Tensor values = (groups == 1 ? v : v.repeat_interleave(groups, -3)).to(wide);
  const Tensor count = chosen.sum(-1, true).clamp_min(1).to(wide);
  return (at::matmul(chosen.to(wide), values) / count).to(v.scalar_type());
}

Tensor pair_priority(const RandomStream& stream, int64_t heads, const Tensor& query_positions,
                     const Tensor& key_positions) {
  // A few rounds of a 31-bit mixer; products of a 31-bit and a 32-bit number fit in 63 bits.
  constexpr int64_t kMask = (int64_t{1} << 31) - 1;
  const auto mixed = [&](Tensor bits) {
    for (const int64_t factor : {0x45d9f3b, 0x2c1b3c6d, 0x297a2d39})
      bits = ((bits.bitwise_xor(bits.bitwise_right_shift(15))) * factor).bitwise_and(kMask);
    return bits.bitwise_xor(bits.bitwise_right_shift(16));
  };
  const auto rows = [](const Tensor& p) { return p.dim() == 1 ? p.unsqueeze(0) : p; };
  std::vector<int64_t> keys;
  for (int64_t h = 0; h < heads; ++h)
    keys.push_back(static_cast<int64_t>(stream.child(static_cast<uint64_t>(h)).key()) & kMask);
  const Tensor head = at::tensor(keys, query_positions.options()).view({1, heads, 1, 1});
  const Tensor query = rows(query_positions).unsqueeze(1).unsqueeze(-1);
  const Tensor key = rows(key_positions).unsqueeze(1).unsqueeze(2);
  const Tensor bits = mixed(mixed(head.bitwise_xor(query)).bitwise_xor(key));
  return bits.to(at::kDouble) / static_cast<double>(kMask + 1);
}

Tensor saturation_divergence(const Tensor& weights, double share) {
  const Tensor constant = weights.detach();
  const Tensor near = constant > constant.amax(-1, true) * share;
  const Tensor count = near.sum(-1, true).clamp_min(1).to(weights.scalar_type());
  // Numbers outside T never meet the logarithm: it may be infinite there.
  const Tensor logs = weights.masked_fill(near.logical_not(), 1.0).log();
  const Tensor terms = ((count.log() + logs) / count).masked_fill(near.logical_not(), 0.0);
  return -terms.sum() /
         static_cast<double>(std::max<int64_t>(1, weights.numel() / weights.size(-1)));
}

}  // namespace formwork

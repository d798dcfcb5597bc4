#include "lab/formal_languages.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

namespace formwork {
namespace {

double count(const Tensor& wrong) {
  return static_cast<double>(wrong.sum().item<int64_t>());
}

}  // namespace

Tensor all_words(int64_t n) {
  return at::arange(int64_t{1} << n)
      .unsqueeze(1)
      .bitwise_right_shift(at::arange(n))
      .bitwise_and(1)
      .to(at::kDouble);
}

Tensor mean_by_equal_scores(const Tensor& v, bool causal, Chosen which) {
  const int64_t n = v.size(1);
  Tensor scores = at::zeros({v.size(0), 1, n, n}, v.options());
  if (causal)
    scores.masked_fill_(at::ones({n, n}, at::kBool).triu(1),
                        -std::numeric_limits<double>::infinity());
  const Tensor values = v.unsqueeze(1).unsqueeze(-1);
  return mean_of_chosen(chosen_keys(scores, which), values).squeeze(-1).squeeze(1);
}

Tensor threshold_gate(const Tensor& bits, int64_t k) {
  const Tensor first = at::zeros({bits.size(0), 1}, at::kDouble);
  const Tensor ones = mean_by_equal_scores(at::cat({first, bits}, 1), false).select(1, 0);
  const Tensor unit =
      mean_by_equal_scores(at::cat({first + 1.0, at::zeros_like(bits)}, 1), false).select(1, 0);
  return (ones - static_cast<double>(k) * unit >= -1e-12).to(at::kDouble);
}

double limit_law_excess() {
  const int64_t n = 9;
  const Tensor drawn = at::arange(64 * n * n, at::kDouble).view({64, n, n});
  const Tensor scores = (1.5 * (drawn * 12.9898).sin() * 2.0).round();  // many ties
  const Tensor chosen = chosen_keys(scores, Chosen::saturated);
  const Tensor saturated = chosen_weights(chosen, at::kDouble);
  const Tensor ties = chosen.sum(-1).to(at::kDouble);
  const Tensor next = scores.masked_fill(chosen, -std::numeric_limits<double>::infinity()).amax(-1);
  const Tensor gap = scores.amax(-1) - next;
  double excess = -std::numeric_limits<double>::infinity();
  for (const double c : {1.0, 4.0, 16.0, 64.0}) {
    const Tensor distance = ((c * scores).softmax(-1) - saturated).abs().sum(-1);
    const Tensor bound = 2.0 * (static_cast<double>(n) - ties) / ties * (-c * gap).exp();
    excess = std::max(excess, (distance - bound).max().item<double>());
  }
  return excess;
}

double majority_errors(Chosen which) {
  double errors = 0.0;
  for (int64_t n = 1; n <= 10; ++n) {
    const Tensor bits = all_words(n);
    const Tensor truth = 2.0 * bits.sum(1) > static_cast<double>(n);
    const Tensor mean = mean_by_equal_scores(2.0 * bits - 1.0, false, which).select(1, 0);
    errors += count((mean > 0.5 / static_cast<double>(n)) != truth);
  }
  return errors;
}

double threshold_errors() {
  double errors = 0.0;
  for (int64_t n = 1; n <= 8; ++n) {
    const Tensor bits = all_words(n), sum = bits.sum(1);
    for (int64_t k = 1; k <= n + 1; ++k)
      errors += count(threshold_gate(bits, k) != (sum >= k).to(at::kDouble));
  }
  return errors;
}

double parity_errors() {
  double errors = 0.0;
  for (int64_t n = 1; n <= 8; ++n) {
    const Tensor bits = all_words(n);
    std::vector<Tensor> gates;
    for (int64_t k = 1; k <= n + 1; ++k)
      gates.push_back((k % 2 == 1 ? 1.0 : -1.0) * threshold_gate(bits, k));
    const Tensor mean = mean_by_equal_scores(at::stack(gates, 1), false).select(1, 0);
    errors += count((mean > 0.5 / static_cast<double>(n + 1)) != (bits.sum(1).remainder(2) == 1.0));
  }
  return errors;
}

double bracket_errors() {
  double errors = 0.0;
  for (int64_t n = 1; n <= 12; ++n) {
    const Tensor v = 2.0 * all_words(n) - 1.0, depth = v.cumsum(1);
    const Tensor truth = (depth.amin(1) >= 0.0).logical_and(depth.select(1, n - 1) == 0.0);
    const Tensor means = mean_by_equal_scores(v, true);
    const Tensor below = (means < -1e-12).to(at::kDouble);
    const Tensor ever_below = mean_by_equal_scores(below, false).select(1, 0) > 0.0;
    const Tensor accepted = ever_below.logical_not().logical_and(means.select(1, n - 1) == 0.0);
    errors += count(accepted != truth);
  }
  return errors;
}

}  // namespace formwork

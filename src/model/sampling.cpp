#include "model/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace formwork {

void SamplingOptions::describe(OptionSet& o) {
  o.add("temperature", temperature, "0 takes the likeliest token", at_least(0));
  o.add("top_k", top_k, "draw from the k likeliest; 0 = all", at_least(0));
  o.add("top_p", top_p, "draw from the smallest set with this probability", between(0, 1));
  o.add("min_p", min_p, "least probability relative to the likeliest", between(0, 1));
}

int64_t sample(const Tensor& logits, const SamplingOptions& options, Random& random) {
  const Tensor row = logits.detach().to(at::kCPU, at::kDouble).contiguous();
  const double* const score = row.const_data_ptr<double>();
  const size_t size = static_cast<size_t>(row.numel());
  if (options.temperature == 0.0)
    return static_cast<int64_t>(std::max_element(score, score + size) - score);

  std::vector<size_t> order(size);
  std::iota(order.begin(), order.end(), size_t{0});
  // Ties in the order of the ids, so that the draw is the same everywhere.
  std::stable_sort(order.begin(), order.end(),
                   [score](size_t a, size_t b) { return score[a] > score[b]; });
  if (options.top_k > 0) order.resize(std::min(size, static_cast<size_t>(options.top_k)));
  std::vector<double> weight(order.size());
  double total = 0.0;
  for (size_t i = 0; i < order.size(); ++i)
    total += weight[i] = std::exp((score[order[i]] - score[order[0]]) / options.temperature);

  size_t kept = 0;
  double mass = 0.0;
  while (kept < order.size() && (kept == 0 || mass < options.top_p * total) &&
         weight[kept] >= options.min_p)
    mass += weight[kept++];
  double draw = random.uniform() * mass;
  for (size_t i = 0; i < kept; ++i) {
    draw -= weight[i];
    if (draw < 0.0) return static_cast<int64_t>(order[i]);
  }
  return static_cast<int64_t>(order[kept - 1]);
}

}  // namespace formwork

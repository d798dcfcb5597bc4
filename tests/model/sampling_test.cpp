// The draw of a token beside one that sorts all scores.
#include "model/sampling.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace formwork::test {
namespace {

int64_t sample_by_sorting_all(const std::vector<double>& score, const SamplingOptions& options,
                              Random& random) {
  std::vector<size_t> order(score.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return score[a] > score[b]; });
  if (options.top_k > 0) order.resize(std::min(order.size(), static_cast<size_t>(options.top_k)));
  std::vector<double> weight;
  for (const size_t id : order)
    weight.push_back(std::exp((score[id] - score[order[0]]) / options.temperature));
  const double total = std::accumulate(weight.begin(), weight.end(), 0.0);
  size_t kept = 0;
  double mass = 0.0;
  while (kept < order.size() && (kept == 0 || mass < options.top_p * total) &&
         weight[kept] >= options.min_p)
    mass += weight[kept++];
  double draw = random.uniform() * mass;
  for (size_t i = 0; i < kept; ++i)
    if ((draw -= weight[i]) < 0.0) return static_cast<int64_t>(order[i]);
  return static_cast<int64_t>(order[kept - 1]);
}

TEST(unit, sampling_sorts_what_it_needs) {
  std::vector<SamplingOptions> all(6);
  all[1].top_k = 70;
  all[2].top_p = 0.9;
  all[3].min_p = 0.2;
  all[4] = {5.0, 2000, 0.99, 0.01};
  all[5].temperature = 0.3;
  for (const int64_t size : {1, 5, 64, 65, 3000}) {
    Tensor logits = normal_tensor({size}, 2.0, RandomStream(static_cast<uint64_t>(size)));
    if (size > 100) logits = (logits * 4).round() / 4;  // many ties
    const Tensor wide = logits.to(at::kDouble);
    const std::vector<double> score(wide.const_data_ptr<double>(),
                                    wide.const_data_ptr<double>() + size);
    for (const SamplingOptions& options : all) {
      Random mine = RandomStream(5).random(), plain = RandomStream(5).random();
      for (int draw = 0; draw < 50; ++draw)
        ASSERT_EQ(sample(logits, options, mine), sample_by_sorting_all(score, options, plain));
    }
  }
}

TEST(unit, sampling_passes_over_what_is_no_number) {
  Tensor logits = at::zeros({3000});
  logits.slice(0, 0, 3000, 2).fill_(std::nan(""));
  logits[7] = 20.0;
  Random random = RandomStream(5).random();
  for (const SamplingOptions& options : {SamplingOptions{}, SamplingOptions{1.0, 5, 0.9, 0.1}})
    EXPECT_EQ(sample(logits, options, random), 7);
  EXPECT_EQ(sample(logits, {0.0}, random), 7);
  logits.fill_(std::nan(""));
  EXPECT_LT(sample(logits, {}, random), 3000);
}

}  // namespace
}  // namespace formwork::test

#include "model/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace formwork {
namespace {

/// Ids from the highest score down, ties in the order of the ids, so that the draw is the same
/// everywhere. Only as many are sorted as are asked for: a draw rarely needs the tail of 50,000.
class Ranks {
 public:
  Ranks(const double* score, size_t size) : score_(score), order_(size) {
    std::iota(order_.begin(), order_.end(), size_t{0});
  }
  size_t operator[](size_t rank) {
    while (rank >= sorted_) sort_more();
    return order_[rank];
  }

 private:
  void sort_more() {
    const auto at = [this](size_t n) { return order_.begin() + static_cast<int64_t>(n); };
    const size_t next = std::min(order_.size(), std::max<size_t>(64, 8 * sorted_));
    const auto before = [this](size_t a, size_t b) {
      return score_[a] != score_[b] ? score_[a] > score_[b] : a < b;
    };
    if (next < order_.size()) std::nth_element(at(sorted_), at(next), order_.end(), before);
    std::sort(at(sorted_), at(next), before);
    sorted_ = next;
  }

  const double* score_;
  std::vector<size_t> order_;
  size_t sorted_ = 0;
};

}  // namespace

void SamplingOptions::describe(OptionSet& o) {
  o.add("temperature", temperature, "0 takes the likeliest token", at_least(0));
  o.add("top_k", top_k, "draw from the k likeliest; 0 = all", at_least(0));
  o.add("top_p", top_p, "draw from the smallest set with this probability", between(0, 1));
  o.add("min_p", min_p, "least probability relative to the likeliest", between(0, 1));
}

int64_t sample(const Tensor& logits, const SamplingOptions& options, Random& random) {
  // What is no number would have no place in an order.
  const Tensor row = logits.detach()
                         .to(at::kCPU, at::kDouble)
                         .nan_to_num(-std::numeric_limits<double>::infinity())
                         .contiguous();
  const double* const score = row.const_data_ptr<double>();
  const size_t size = static_cast<size_t>(row.numel());
  if (options.temperature == 0.0)
    return static_cast<int64_t>(std::max_element(score, score + size) - score);

  Ranks ranks(score, size);
  const double most = score[ranks[0]];
  const auto weight = [&](size_t id) { return std::exp((score[id] - most) / options.temperature); };
  size_t candidates = size;
  if (options.top_k > 0) candidates = std::min(size, static_cast<size_t>(options.top_k));
  double total = 0.0;
  if (candidates == size)
    for (size_t id = 0; id < size; ++id) total += weight(id);
  else
    for (size_t i = 0; i < candidates; ++i) total += weight(ranks[i]);

  double mass = total;
  if (options.top_p < 1.0 || options.min_p > 0.0) {
    size_t kept = 0;
    for (mass = 0.0; kept < candidates && (kept == 0 || mass < options.top_p * total); ++kept) {
      const double next = weight(ranks[kept]);
      if (next < options.min_p) break;
      mass += next;
    }
    candidates = kept;
  }
  double draw = random.uniform() * mass;
  for (size_t i = 0; i < candidates; ++i) {
    draw -= weight(ranks[i]);
    if (draw < 0.0) return static_cast<int64_t>(ranks[i]);
  }
  return static_cast<int64_t>(ranks[candidates - 1]);
}

}  // namespace formwork

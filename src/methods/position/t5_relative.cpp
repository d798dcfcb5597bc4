#include "methods/position/t5_relative.h"

#include <cmath>

#include "methods/position/position.h"
#include "methods/position/toeplitz.h"

namespace formwork {

Tensor t5_bucket(const Tensor& relative, bool bidirectional, int64_t buckets,
                 int64_t max_distance) {
  const int64_t half = bidirectional ? buckets / 2 : buckets;
  const int64_t exact = half / 2;
  const Tensor distance = bidirectional ? relative.abs() : relative.neg().clamp_min(0);
  // In float32, as the published buckets were made.
  const double span = std::log(static_cast<double>(max_distance) / static_cast<double>(exact));
  const Tensor ratio = distance.clamp_min(1).to(at::kFloat) / static_cast<double>(exact);
  const Tensor steps = (ratio.log() / span * static_cast<double>(half - exact)).to(at::kLong);
  const Tensor far = (steps + exact).clamp_max(half - 1);
  const Tensor bucket = at::where(distance < exact, distance, far);
  return bidirectional ? bucket + (relative > 0).to(at::kLong) * half : bucket;
}

namespace {

struct T5Options {
  int64_t num_buckets = 32;
  int64_t max_distance = 128;
  bool share = true;
  void describe(OptionSet& o) {
    o.add("num_buckets", num_buckets, "distances that are told apart", at_least(4));
    o.add("max_distance", max_distance, "farther than this all distances are one", at_least(3));
    o.add("share", share, "one table for all layers, or one a layer");
    o.require(
        "num_buckets", [this] { return num_buckets % 2 == 0; }, "must be even");
    o.require(
        "max_distance", [this] { return max_distance > num_buckets / 2; },
        "must be above num_buckets / 2");
  }
};

/// bias_h(i, j) = table[bucket(j - i), h], learned. Raffel et al. 2019, arXiv 1910.10683. The scale
/// 1/sqrt(K) of the scores is the mixer's, T5 itself has none.
class T5Relative final : public Position {
 public:
  T5Relative(const T5Options& options, const PositionSite& site)
      : options_(options), bidirectional_(!site.causal) {
    check(!bidirectional_ || options.num_buckets % 4 == 0, "position.num_buckets", "found ",
          options.num_buckets, "; valid: a multiple of 4 in a model that sees both ways");
    const double deviation = 1.0 / std::sqrt(static_cast<double>(site.width));
    table_ = add_parameter("weight",
                           normal_tensor({options.num_buckets, site.heads}, deviation, site.random),
                           Role::position);
  }
  static Traits traits(const T5Options& options) {
    return {.biases = true, .toeplitz = true, .shared = options.share};
  }

  bool steady() const override { return false; }  // looks at the positions
  Tensor bias(const Tensor& query, const Tensor& key, at::ScalarType type) override {
    const auto first_query = start_of_run(query);
    const auto first_key = start_of_run(key);
    if (first_query && first_key) {
      const int64_t queries = query.numel(), keys = key.numel();
      const int64_t shift = *first_key - *first_query;
      const Tensor relative = at::arange(shift - queries + 1, shift + keys, query.options());
      return from_diagonals(of(relative).t().to(type), queries, keys);
    }
    return of(relative_positions(query, key)).movedim(-1, -3).to(type);
  }

  Tensor diagonals(int64_t n, at::ScalarType type) override {
    const auto integers = at::TensorOptions().dtype(at::kLong).device(table_.device());
    return of(at::arange(1 - n, n, integers)).t().to(type);
  }

 private:
  /// relative [...] → [..., H].
  Tensor of(const Tensor& relative) const {
    return at::embedding(
        table_, t5_bucket(relative, bidirectional_, options_.num_buckets, options_.max_distance));
  }

  T5Options options_;
  bool bidirectional_;
  Tensor table_;
};

const Register<Position, T5Relative, T5Options> t5_relative{
    "t5_relative", "a trained score for each bucket of distances", cite("1910.10683"),
    specified_by("position_baselines")};

}  // namespace
}  // namespace formwork

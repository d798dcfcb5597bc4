#include "methods/position/alibi.h"

#include <bit>
#include <cmath>

#include "methods/position/position.h"
#include "methods/position/position_cache.h"
#include "methods/position/toeplitz.h"

namespace formwork {

std::vector<double> alibi_slopes(int64_t heads) {
  const auto power = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(heads)));
  const auto slope = [](int64_t h, int64_t of) {
    return std::exp2(-8.0 * static_cast<double>(h) / static_cast<double>(of));
  };
  std::vector<double> slopes;
  for (int64_t h = 1; h <= power; ++h) slopes.push_back(slope(h, power));
  for (int64_t h = 1; h <= heads - power; ++h) slopes.push_back(slope(2 * h - 1, 2 * power));
  return slopes;
}

namespace {

/// bias_h(i, j) = -m_h |i - j|: nothing is learned, any length works.
/// Press et al. 2021, arXiv 2108.12409.
class Alibi final : public Position {
 public:
  Alibi(const NoOptions&, const PositionSite& site)
      : slopes_(at::tensor(alibi_slopes(site.heads), at::kDouble).unsqueeze(1)) {}
  static Traits traits(const NoOptions&) { return {.biases = true, .toeplitz = true}; }

  bool steady() const override { return false; }  // looks at the positions
  Tensor bias(const Tensor& query, const Tensor& key, at::ScalarType type) override {
    return cache_.find({query, key}, type,
                       [&] { return std::vector<Tensor>{compute(query, key, type)}; })[0];
  }

  Tensor diagonals(int64_t n, at::ScalarType type) override {
    return scaled(at::arange(1 - n, n), type);
  }

 private:
  /// relative [n] → [H, n].
  Tensor scaled(const Tensor& relative, at::ScalarType type) const {
    return (slopes_.to(relative.device()) * relative.abs().neg()).to(type);
  }

  Tensor compute(const Tensor& query, const Tensor& key, at::ScalarType type) const {
    const auto first_query = start_of_run(query);
    const auto first_key = start_of_run(key);
    if (first_query && first_key) {
      const int64_t queries = query.numel(), keys = key.numel();
      const int64_t shift = *first_key - *first_query;
      const Tensor relative = at::arange(shift - queries + 1, shift + keys, query.options());
      return from_diagonals(scaled(relative, type), queries, keys);
    }
    const Tensor relative = relative_positions(query, key);
    return (slopes_.unsqueeze(2).to(relative.device()) * relative.abs().neg().unsqueeze(-3))
        .to(type);
  }

  Tensor slopes_;  // [H,1] float64
  PositionCache cache_;
};

const Register<Position, Alibi> alibi{"alibi", "scores fall linearly with distance, a slope a head",
                                      cite("2108.12409"), specified_by("position_baselines")};

}  // namespace
}  // namespace formwork

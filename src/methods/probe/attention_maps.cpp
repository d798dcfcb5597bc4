#include <algorithm>

#include "methods/probe/probe.h"

namespace formwork {
namespace {

struct AttentionMapsOptions {
  int64_t item = 0;
  int64_t most = 64;
  void describe(OptionSet& o) {
    o.add("item", item, "which item of the first batch is drawn", at_least(0));
    o.add("most", most, "rows and columns of a picture; longer sequences are averaged down to it",
          between(2, 1024));
  }
};

/// Pictures of the attention weights of one item, a picture a head, and in numbers over all items
/// where heads look: how far, at the token itself, at the one before, at the first.
class AttentionMaps final : public Probe {
 public:
  AttentionMaps(const AttentionMapsOptions& options, const ProbeSite&) : options_(options) {}

  void begin() override { valid_.clear(); }
  bool wants(const std::string& point) const override {
    return !place_at(point, "attention").empty() || !place_at(point, "valid").empty();
  }

  void see(const std::string& point, const Tensor& tensor) override {
    const std::string place = place_at(point, "attention");
    if (place.empty()) {
      valid_[place_at(point, "valid")] = tensor;
      return;
    }
    Sums& sums = sums_[place];
    Tensor counts = at::ones({tensor.size(0), 1, tensor.size(2)}, at::kDouble);
    if (const Tensor* valid = valid_.find(place)) counts = valid->unsqueeze(1).to(at::kDouble);
    add(sums, tensor.to(at::kDouble), counts);
    if (!sums.map.defined()) keep_map(sums, tensor, valid_.find(place));
  }

  Findings findings() override {
    Findings found;
    if (sums_.empty()) {
      found.say("no mixer of this model forms attention weights");
      return found;
    }
    Figures figures =
        figures_of("heads", "Where heads look", "sublayer and head",
                   {"distance (tokens)", "at itself", "at the token before", "at the first token"},
                   Plot::none);
    Series distance{"", {}};
    for (auto& [place, sums] : sums_) {
      const Tensor means = sums.total / sums.count;  // [4,H]
      distance.values.push_back(means[0].mean().item<double>());
      for (int64_t h = 0; h < means.size(1); ++h) {
        const std::string name = join_text(place, " head ", h);
        figures.rows.emplace_back(name, numbers(means.select(1, h)));
        found.pictures.push_back({name, "query", "key", sums.map[h]});
      }
    }
    found.figures.push_back(std::move(figures));
    found.series.push_back(std::move(distance));
    return found;
  }

 private:
  struct Sums {
    Tensor total;  // [4,H]
    double count = 0.0;
    Tensor map;  // [H,R,C]
  };

  static void add(Sums& sums, const Tensor& a, const Tensor& counts) {
    const int64_t queries = a.size(2), keys = a.size(3);
    const Tensor apart =
        (at::arange(queries, at::kDouble).unsqueeze(1) - at::arange(keys, at::kDouble));
    const auto mean_of = [&](const Tensor& factor) {
      return ((a * factor).sum(-1) * counts).sum(at::IntArrayRef{0, 2});
    };
    const Tensor first = (at::arange(keys) == 0).to(at::kDouble).expand({queries, keys});
    const Tensor total = at::stack({mean_of(apart.abs()), mean_of((apart == 0).to(at::kDouble)),
                                    mean_of((apart == 1).to(at::kDouble)), mean_of(first)});
    sums.total = sums.total.defined() ? sums.total + total : total;
    sums.count += counts.sum().item<double>();
  }

  void keep_map(Sums& sums, const Tensor& attention, const Tensor* valid) const {
    const int64_t item = std::min(options_.item, attention.size(0) - 1);
    Tensor map = attention[item].to(at::kFloat);
    if (valid && map.size(1) == map.size(2)) {
      const Tensor real = (*valid)[item].nonzero().squeeze(1);
      map = map.index_select(1, real).index_select(2, real);
    }
    const std::vector<int64_t> size{std::min(options_.most, map.size(1)),
                                    std::min(options_.most, map.size(2))};
    if (map.numel() > 0 && (size[0] != map.size(1) || size[1] != map.size(2)))
      map = at::adaptive_avg_pool2d(map.unsqueeze(0), size).squeeze(0);
    sums.map = map.clone();
  }

  AttentionMapsOptions options_;
  ByPlace<Tensor> valid_;
  ByPlace<Sums> sums_;
};

const Register<Probe, AttentionMaps, AttentionMapsOptions> attention_maps{
    "attention_maps", "pictures of each head's attention, and how far it looks", cite("1706.03762"),
    specified_by("")};

}  // namespace
}  // namespace formwork

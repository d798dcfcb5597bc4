#include <algorithm>
#include <cmath>

#include "methods/probe/measures.h"
#include "methods/probe/probe.h"

namespace formwork {
namespace {

struct TokenSimilarityOptions {
  int64_t positions = 64;
  void describe(OptionSet& o) {
    o.add("positions", positions, "tokens looked at, evenly spread over the sequence",
          between(2, 1024));
  }
};

/// How alike the vectors of different tokens are, by depth: their cosine similarity by distance
/// (tokens that all become alike carry no order and no content), and the correlation of the vectors
/// at token i of one depth with those at token j of the next: the score is that of the same token
/// less that of others, near 1 where each token keeps a slice of its own. Tokens that some item
/// pads are left out. Zuo & Guerzhoy 2024, arXiv 2402.05969 and 2501.00073.
class TokenSimilarity final : public Probe {
 public:
  TokenSimilarity(const TokenSimilarityOptions& options, const ProbeSite&)
      : positions_(options.positions) {}

  void begin() override {
    hidden_.clear();
    valid_ = Tensor();
  }

  bool wants(const std::string& point) const override {
    // Of two stacks the one that makes the output.
    if (point.starts_with("encoder.")) return false;
    return !place_at(point, "stream").empty() || point.ends_with("stem.output") ||
           point.ends_with("stem.valid");
  }

  void see(const std::string& point, const Tensor& tensor) override {
    if (point.ends_with(".valid")) {
      valid_ = tensor;
      return;
    }
    hidden_[layer_of(point)] = tensor;  // the last of a layer stays
  }

  void end() override {
    std::vector<Tensor> all;
    std::vector<std::string> depths;
    for (auto& [layer, x] : hidden_) {
      if (!all.empty() && x.sizes() != all.front().sizes()) continue;  // shortened
      all.push_back(x.to(at::kDouble));
      depths.push_back(layer);
    }
    if (all.empty()) return;
    const Tensor hidden = sampled(at::stack(all));
    if (hidden.size(2) < 2) return;
    const double items = static_cast<double>(hidden.size(1));
    const Tensor similarity = similarity_by_distance(hidden) * items;
    const Tensor correlation = slice_correlation(hidden) * items;
    if (similarity_.defined() && similarity_.sizes() != similarity.sizes()) return;
    similarity_ = similarity_.defined() ? similarity_ + similarity : similarity;
    correlation_ = correlation_.defined() ? correlation_ + correlation : correlation;
    depths_ = depths;
    items_ += items;
  }

  Findings findings() override;

 private:
  Tensor sampled(const Tensor& hidden) {
    Tensor places = at::arange(hidden.size(2));
    if (valid_.defined()) places = places.index({valid_.all(0)});
    const int64_t n = places.size(0), count = std::min(positions_, n);
    spacing_ = count > 1 ? static_cast<double>(n - 1) / static_cast<double>(count - 1) : 1.0;
    if (count < n)
      places = places.index_select(
          0, at::linspace(0, static_cast<double>(n - 1), count).round().to(at::kLong));
    return hidden.index_select(2, places);
  }

  int64_t positions_;
  ByPlace<Tensor> hidden_;
  Tensor valid_, similarity_, correlation_;
  std::vector<std::string> depths_;
  double items_ = 0.0, spacing_ = 1.0;
};

Findings TokenSimilarity::findings() {
  Findings found;
  if (!similarity_.defined()) {
    found.say("no two tokens are real in every item, so there is nothing to compare");
    return found;
  }
  const Tensor similarity = similarity_ / items_, correlation = correlation_ / items_;
  const int64_t n = similarity.size(1);
  Figures cosine = figures_of("similarity", "Cosine similarity of the vectors of different tokens",
                              "depth", {"mean"});
  std::vector<int64_t> distances;
  for (int64_t t = 1; t < n; t *= 2) {
    distances.push_back(t);
    cosine.columns.push_back(figure_text(std::round(static_cast<double>(t) * spacing_)) + " apart");
  }
  const Tensor pairs = at::arange(n, 0, -1).to(at::kDouble);  // how many are t apart
  Series means{"", {}}, scores{"slice_score", {}};
  for (size_t l = 0; l < depths_.size(); ++l) {
    const Tensor row = similarity[static_cast<int64_t>(l)];
    const double mean = ((row * pairs).slice(0, 1).sum() / pairs.slice(0, 1).sum()).item<double>();
    std::vector<double> figures{mean};
    for (const int64_t t : distances) figures.push_back(row[t].item<double>());
    cosine.rows.emplace_back(depths_[l], std::move(figures));
    means.values.push_back(mean);
  }
  scores.values = numbers(slice_score(correlation));
  Figures slices =
      figures_of("slice_score", "Correlation with the next depth: same token less others", "depth",
                 {"slice score"});
  for (size_t l = 0; l < scores.values.size(); ++l) {
    slices.rows.emplace_back(depths_[l] + " to " + depths_[l + 1],
                             std::vector<double>{scores.values[l]});
    const int64_t at = static_cast<int64_t>(l);
    found.pictures.push_back({"correlation of " + depths_[l] + " and " + depths_[l + 1],
                              "token, " + depths_[l], "token, " + depths_[l + 1],
                              correlation[at][at + 1].to(at::kFloat)});
  }
  if (means.values.back() > 0.95)
    found.say("the tokens of the last layer are nearly alike (mean cosine " +
              figure_text(means.values.back()) + ")");
  found.figures.push_back(std::move(cosine));
  if (!slices.rows.empty()) found.figures.push_back(std::move(slices));
  found.series.push_back(std::move(means));
  found.series.push_back(std::move(scores));
  return found;
}

const Register<Probe, TokenSimilarity, TokenSimilarityOptions> token_similarity{
    "token_similarity", "how alike the vectors of different tokens are, by depth and distance",
    cite("2402.05969"), specified_by("breaking_symmetry")};

}  // namespace
}  // namespace formwork

#include <algorithm>
#include <cmath>

#include "methods/probe/measures.h"
#include "methods/probe/probe.h"

namespace formwork {
namespace {

struct ConditionNumberOptions {
  int64_t items = 4;
  void describe(OptionSet& o) {
    o.add("items", items, "items of each batch that are decomposed", at_least(1));
  }
};

/// The upper one where there are two in the middle.
double median(std::vector<double> all) {
  if (all.empty()) return std::nan("");
  std::sort(all.begin(), all.end());
  return all[all.size() / 2];
}

/// Largest by smallest singular value, a matrix an item, padded tokens left out: of the embedded
/// tokens X [N,D] before and after the conditioning; of each head's attention matrix P [N,N],
/// values V [N,K] and output P V; and of all heads' outputs side by side. kappa(PV) <= kappa(P)
/// kappa(V) is certain only for N >= K; the paper's bound by kappa(X) needs N >= D and one head of
/// full width (where N < D it is false). Saratchandran & Lucey 2025, arXiv 2505.12789,
/// proposition 4.2.
class ConditionNumber final : public Probe {
 public:
  ConditionNumber(const ConditionNumberOptions& options, const ProbeSite&)
      : items_(options.items) {}

  void begin() override { valid_.clear(); }
  bool wants(const std::string& point) const override {
    for (const char* what : {"tokens", "conditioned", "valid", "attention", "value", "input"})
      if (!place_at(point, what).empty()) return true;
    return false;
  }

  void see(const std::string& point, const Tensor& tensor) override {
    const std::string what = point.substr(point.rfind('.') + 1);
    const std::string place = place_at(point, what);
    if (what == "valid") {
      valid_[place] = tensor;
    } else if (what == "value") {
      values_ = tensor;
    } else if (what == "attention") {
      if (values_.defined()) add_attention(place, tensor);
      values_ = Tensor();
    } else if (what == "input") {
      input_ = tensor;
    } else {
      add_tokens(place, what, tensor);
    }
  }

  Findings findings() override;

 private:
  struct Layer {
    std::vector<double> input, attention, values, head_output, bound, output;
    std::vector<std::vector<double>> heads;  // of P, a list a head
    int64_t tokens = 0, head_width = 0;      // least N, K
  };

  /// The rows of item b that count.
  Tensor real_rows(const std::string& place, const Tensor& x, int64_t b, int64_t dim) {
    const Tensor* valid = valid_.find(place);
    const Tensor item = x[b];
    if (!valid || valid->size(1) != item.size(dim)) return item;
    return item.index_select(dim, (*valid)[b].nonzero().squeeze(1));
  }

  void add_tokens(const std::string& place, const std::string& what, const Tensor& x) {
    width_ = x.size(2);
    for (int64_t b = 0; b < std::min(items_, x.size(0)); ++b) {
      const Tensor rows = real_rows(place, x, b, 0);
      if (rows.size(0) < 1) continue;
      tokens_ = tokens_ == 0 ? rows.size(0) : std::min(tokens_, rows.size(0));
      embedded_[place + "." + what].push_back(condition_number(rows).item<double>());
    }
  }

  void add_attention(const std::string& place, const Tensor& attention);

  int64_t items_, width_ = 0, tokens_ = 0;
  ByPlace<Tensor> valid_;
  Tensor values_, input_;
  ByPlace<std::vector<double>> embedded_;
  ByPlace<Layer> layers_;
};

void ConditionNumber::add_attention(const std::string& place, const Tensor& attention) {
  Layer& layer = layers_[place];
  const int64_t heads = attention.size(1);
  layer.heads.resize(static_cast<size_t>(heads));
  layer.head_width = values_.size(3);
  for (int64_t b = 0; b < std::min(items_, attention.size(0)); ++b) {
    Tensor p = real_rows(place, attention, b, 1).to(at::kDouble);
    Tensor v = values_[b].to(at::kDouble);
    if (attention.size(2) == attention.size(3)) {
      const Tensor* valid = valid_.find(place);
      if (valid) {
        const Tensor real = (*valid)[b].nonzero().squeeze(1);
        p = p.index_select(2, real);
        v = v.index_select(1, real);
      }
    }
    if (p.size(1) < 1) continue;
    if (v.size(0) != heads) v = v.repeat_interleave(heads / v.size(0), 0);
    const Tensor output = at::matmul(p, v);  // [H,N,K]
    const std::vector<double> by_head = numbers(condition_number(p));
    const std::vector<double> values = numbers(condition_number(v));
    const std::vector<double> outputs = numbers(condition_number(output));
    for (size_t h = 0; h < by_head.size(); ++h) {
      layer.heads[h].push_back(by_head[h]);
      layer.bound.push_back(by_head[h] * values[h]);
    }
    layer.head_output.insert(layer.head_output.end(), outputs.begin(), outputs.end());
    layer.attention.insert(layer.attention.end(), by_head.begin(), by_head.end());
    layer.values.insert(layer.values.end(), values.begin(), values.end());
    layer.output.push_back(condition_number(output.transpose(0, 1).flatten(1)).item<double>());
    if (input_.defined() && input_.size(0) == attention.size(0) &&
        input_.size(1) == attention.size(2))
      layer.input.push_back(condition_number(real_rows(place, input_, b, 0)).item<double>());
    layer.tokens = layer.tokens == 0 ? p.size(1) : std::min(layer.tokens, p.size(1));
  }
}

Findings ConditionNumber::findings() {
  Findings found;
  const auto yes = [](bool holds) { return holds ? "holds" : "does not hold"; };
  found.say(join_text("premise N >= D of the bound kappa(A) <= kappa(P) kappa(X) kappa(Wv) ",
                      yes(tokens_ >= width_), " (N at least ", tokens_, " tokens, D ", width_,
                      " channels)"));
  Figures tokens = figures_of("embedded", "Condition number of the embedded tokens", "point",
                              {"median", "greatest"}, Plot::none);
  for (auto& [point, all] : embedded_)
    tokens.rows.emplace_back(
        point, std::vector<double>{median(all), *std::max_element(all.begin(), all.end())});
  found.figures.push_back(std::move(tokens));
  const bool deficient = std::any_of(embedded_.begin(), embedded_.end(), [](const auto& point) {
    return std::isinf(median(point.second));
  });
  if (deficient)
    found.say(
        "infinite: the embedded tokens span fewer directions than min(N, D); a token that "
        "occurs twice gives equal rows");
  if (layers_.empty()) {
    found.say(
        "no mixer of this model forms attention weights, so only the embedded tokens are measured");
    return found;
  }
  Figures blocks =
      figures_of("attention", "Condition numbers in the attention block, medians", "sublayer",
                 {"input X", "attention matrix P", "values V", "output P V",
                  "its bound kappa(P) kappa(V)", "all heads' outputs"},
                 Plot::logarithmic);
  Figures heads = figures_of("heads", "Condition number of each head's attention matrix, medians",
                             "sublayer", {}, Plot::logarithmic);
  Series series{"", {}};
  for (auto& [place, layer] : layers_) {
    const bool tall = layer.tokens >= layer.head_width;
    // The bound holds pair by pair, hence for the medians too.
    const double bound = tall ? median(layer.bound) : std::nan("");
    blocks.rows.emplace_back(
        place,
        std::vector<double>{median(layer.input), median(layer.attention), median(layer.values),
                            median(layer.head_output), bound, median(layer.output)});
    std::vector<double> row;
    for (const std::vector<double>& head : layer.heads) row.push_back(median(head));
    if (row.size() > heads.columns.size())
      heads.columns = head_names(static_cast<int64_t>(row.size()));
    heads.rows.emplace_back(place, std::move(row));
    series.values.push_back(median(layer.output));
    if (!tall)
      found.say(join_text(place, ": no bound, its N (", layer.tokens, ") is below the head width ",
                          layer.head_width));
  }
  const int64_t count = static_cast<int64_t>(heads.columns.size());
  if (count > 1)
    found.say(join_text("the paper's bound is for one head of full width; here are ", count,
                        ", so each head's P V is bounded by its P and V"));
  found.figures.push_back(std::move(blocks));
  found.figures.push_back(std::move(heads));
  found.series.push_back(std::move(series));
  return found;
}

const Register<Probe, ConditionNumber, ConditionNumberOptions> condition_number_probe{
    "condition_number", "condition numbers of the embedded tokens and of the attention block",
    cite("2505.12789"), specified_by("conditioned_embedded_tokens")};

}  // namespace
}  // namespace formwork

#include <algorithm>
#include <cmath>

#include "methods/probe/measures.h"
#include "methods/probe/probe.h"

namespace formwork {
namespace {

struct AttentionEntropyOptions {
  std::string bound = "row";
  void describe(OptionSet& o) {
    o.add("bound", bound,
          "what limits the scores of a query in the lower bound: their own distance from their "
          "mean (tightest), the spectral norm of the matrix of scores, or the norms of the weights "
          "and of the input",
          one_of({"row", "spectral", "weights"}));
  }
};

/// How spread the attention of each head is: the entropy of its weights in nats, at most log T for
/// T keys; the mean over batch and queries, padded queries left out. Beside it the least entropy
/// that scores of this size can have. Near 0 every query looks at one key, which goes with unstable
/// training. Zhai et al. 2023, arXiv 2303.06296.
class AttentionEntropy final : public Probe {
 public:
  AttentionEntropy(const AttentionEntropyOptions& options, const ProbeSite& site)
      : kind_(options.bound), parameters_(site.parameters) {}

  void begin() override {
    valid_.clear();
    input_.clear();
  }

  bool wants(const std::string& point) const override {
    return !place_at(point, "attention").empty() || !place_at(point, "scores").empty() ||
           !place_at(point, "valid").empty() ||
           (kind_ == "weights" && !place_at(point, "input").empty());
  }

  void see(const std::string& point, const Tensor& tensor) override {
    if (const std::string place = place_at(point, "valid"); !place.empty()) {
      valid_[place] = tensor;
    } else if (const std::string place = place_at(point, "input"); !place.empty()) {
      input_[place] = tensor;
    } else if (const std::string place = place_at(point, "scores"); !place.empty()) {
      scores_ = tensor;
    } else {
      add(place_at(point, "attention"), tensor);
      scores_ = Tensor();
    }
  }

  Findings findings() override;

 private:
  struct Sums {
    Tensor entropy, bound;  // [H]
    double limit = 0.0, count = 0.0;
    bool bounded = true;
  };

  void add(const std::string& place, const Tensor& attention);
  Tensor sigma(const std::string& place) const;
  Tensor weights_sigma(const std::string& place) const;
  const Parameter* parameter(const std::string& place, Role role, bool bias) const;

  std::string kind_;
  std::vector<Parameter> parameters_;
  mutable ByPlace<Tensor> valid_, input_;
  Tensor scores_;
  ByPlace<Sums> sums_;
  std::string unusual_;            // a place whose weights are no distribution
  mutable std::string unbounded_;  // why there is no bound somewhere
};

void AttentionEntropy::add(const std::string& place, const Tensor& attention) {
  const Tensor total = attention.sum(-1);  // 0 for a query without an open key
  Tensor counts = total > 0.5;
  if (const Tensor* valid = valid_.find(place)) counts = counts.logical_and(valid->unsqueeze(1));
  const bool distribution =
      attention.min().item<double>() > -1e-6 &&
      ((total - 1).abs() < 0.02).logical_or(counts.logical_not()).all().item<bool>();
  if (!distribution) {
    unusual_ = place;
    return;
  }
  Sums& sums = sums_[place];
  const Tensor weight = counts.to(at::kDouble);  // [B,H,N] or [B,1,N]
  const auto sum = [&](const Tensor& rows) { return (rows * weight).sum(at::IntArrayRef{0, 2}); };
  const Tensor entropy = sum(entropy_of(attention));
  const Tensor keys = (scores_.defined() ? open_keys(scores_) : (attention > 0).sum(-1));
  sums.entropy = sums.entropy.defined() ? sums.entropy + entropy : entropy;
  sums.count += weight.expand(attention.sizes().slice(0, 3)).sum().item<double>() /
                static_cast<double>(attention.size(1));
  sums.limit += sum(keys.clamp_min(1).to(at::kDouble).log()).mean().item<double>();
  const Tensor size = sigma(place);
  sums.bounded = sums.bounded && size.defined();
  if (!size.defined()) return;
  const Tensor bound = sum(entropy_bound(size, keys.expand(attention.sizes().slice(0, 3))));
  sums.bound = sums.bound.defined() ? sums.bound + bound : bound;
}

/// What limits ||a - mean a|| of the queries' scores: broadcasts to [B,H,N], or undefined.
Tensor AttentionEntropy::sigma(const std::string& place) const {
  if (!scores_.defined()) {
    unbounded_ = place + " has no scores that a softmax is taken of";
    return {};
  }
  if (kind_ == "row") return centred_norm(scores_);
  if (kind_ == "weights") {
    const Tensor limit = weights_sigma(place);
    if (!limit.defined())
      unbounded_ =
          "bound = weights needs scores that are plain products of queries and keys, "
          "which those of " +
          place + " are not";
    return limit;
  }
  // Closed pairs as 0: the norm is still one of a matrix that holds every row.
  const Tensor closed = at::isinf(scores_);
  return at::linalg_matrix_norm(scores_.to(at::kDouble).masked_fill(closed, 0.0), 2).unsqueeze(-1);
}

const Parameter* AttentionEntropy::parameter(const std::string& place, Role role, bool bias) const {
  // Maps of a mixer are the layer's own ("layers.3.q_proj.weight"), those of cross-attention not.
  const std::string layer = layer_of(place) + ".";
  const std::string prefix = place_at(place, "attn").empty() ? place + "." : layer;
  for (const Parameter& p : parameters_) {
    if (!p.name.starts_with(prefix)) continue;
    if (prefix == layer && p.name.starts_with(layer + "cross.")) continue;
    const char* name = role == Role::query ? "q_proj." : "k_proj.";
    if (bias ? p.name.ends_with(std::string(name) + "bias") : p.role == role && p.tensor.dim() == 2)
      return &p;
  }
  return nullptr;
}

/// ||Wq_hᵀ Wk_h||_2 ||X||_2² / sqrt(K), biases as one more column: [B,H,1]. Undefined where the
/// scores are more than plain products of queries and keys (rotary positions, biases, norms).
Tensor AttentionEntropy::weights_sigma(const std::string& place) const {
  const Parameter* q = parameter(place, Role::query, false);
  const Parameter* k = parameter(place, Role::key, false);
  const Tensor* input = input_.find(place);
  const int64_t heads = scores_.size(1);
  if (!q || !k || !input || q->tensor.size(1) != input->size(-1) || q->tensor.size(0) % heads != 0)
    return {};
  const int64_t width = q->tensor.size(0) / heads, kv_heads = k->tensor.size(0) / width;
  if (kv_heads == 0 || heads % kv_heads != 0 || k->tensor.size(1) != input->size(-1)) return {};
  const auto with_bias = [](const Parameter& map, const Parameter* bias) {
    const Tensor w = map.tensor.detach().to(at::kDouble);
    const Tensor column = bias ? bias->tensor.detach().to(at::kDouble).unsqueeze(1)
                               : at::zeros({w.size(0), 1}, w.options());
    return at::cat({w, column}, 1);
  };
  const Tensor query = with_bias(*q, parameter(place, Role::query, true)).view({heads, width, -1});
  const Tensor key = with_bias(*k, parameter(place, Role::key, true))
                         .view({kv_heads, width, -1})
                         .repeat_interleave(heads / kv_heads, 0);
  const Tensor product =  // [H,D+1,D+1]
      at::matmul(query.transpose(-2, -1), key) / std::sqrt(static_cast<double>(width));
  Tensor x = input->to(at::kDouble);
  x = at::cat({x, at::ones_like(x.narrow(-1, 0, 1))}, -1);
  const Tensor plain =
      at::matmul(at::matmul(x.unsqueeze(1), product), x.unsqueeze(1).transpose(-2, -1));
  const Tensor open = at::isinf(scores_).logical_not();
  if (plain.sizes() != scores_.sizes() ||
      !at::allclose(plain.index({open}), scores_.to(at::kDouble).index({open}), 1e-3, 1e-3))
    return {};
  const Tensor of_input = at::linalg_matrix_norm(x, 2).square();  // [B]
  return (at::linalg_matrix_norm(product, 2).unsqueeze(0) * of_input.unsqueeze(1)).unsqueeze(-1);
}

Findings AttentionEntropy::findings() {
  Findings found;
  if (!unusual_.empty())
    found.say("the weights of " + unusual_ +
              " are no distribution over keys, so they have no entropy");
  if (sums_.empty()) {
    if (unusual_.empty()) found.say("no mixer of this model forms attention weights");
    return found;
  }
  if (!unbounded_.empty()) found.say("no lower bound: " + unbounded_);
  int64_t heads = 0;
  for (const auto& [place, sums] : sums_) heads = std::max(heads, sums.entropy.size(0));
  Figures entropy = figures_of("entropy", "Attention entropy, nats", "sublayer", {"mean", "limit"});
  Figures bound =
      figures_of("bound", "Lower bound of the entropy (" + kind_ + "), nats", "sublayer", {"mean"});
  for (const std::string& head : head_names(heads)) {
    entropy.columns.push_back(head);
    bound.columns.push_back(head);
  }
  Series means{"", {}}, bounds{"bound", {}};
  double least = INFINITY, least_limit = 0.0;
  std::string least_place;
  for (auto& [place, sums] : sums_) {
    const std::vector<double> by_head = numbers(sums.entropy / sums.count);
    const double mean = (sums.entropy / sums.count).mean().item<double>();
    const double limit = sums.limit / sums.count;
    std::vector<double> row{mean, limit};
    row.insert(row.end(), by_head.begin(), by_head.end());
    entropy.rows.emplace_back(place, row);
    means.values.push_back(mean);
    for (size_t h = 0; h < by_head.size(); ++h) {
      if (by_head[h] >= least) continue;
      least = by_head[h];
      least_limit = limit;
      least_place = join_text(place, " head ", h);
    }
    if (!sums.bounded || !sums.bound.defined()) continue;
    const std::vector<double> low = numbers(sums.bound / sums.count);
    std::vector<double> bound_row{(sums.bound / sums.count).mean().item<double>()};
    bounds.values.push_back(bound_row[0]);
    bound_row.insert(bound_row.end(), low.begin(), low.end());
    bound.rows.emplace_back(place, bound_row);
  }
  found.say("least: " + least_place + " with " + figure_text(least) + " of at most " +
            figure_text(least_limit) + " nats" +
            (least < 0.05 * least_limit ? "; it has collapsed to single keys" : ""));
  found.figures.push_back(std::move(entropy));
  found.series.push_back(std::move(means));
  if (bound.rows.empty()) return found;
  found.figures.push_back(std::move(bound));
  found.series.push_back(std::move(bounds));
  return found;
}

const Register<Probe, AttentionEntropy, AttentionEntropyOptions> attention_entropy{
    "attention_entropy", "how spread each head's attention is, and the least that its scores allow",
    cite("2303.06296"), specified_by("sigma_reparam")};

}  // namespace
}  // namespace formwork

#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>

#include "methods/mixer/attention.h"
#include "methods/mixer/mixer.h"
#include "methods/mixer/projections.h"
#include "methods/mixer/saturated_weights.h"
#include "methods/mixer/token_cache.h"
#include "methods/selective_observer.h"

namespace formwork {
namespace {

struct SaturatedAttentionOptions {
  std::string weights = "saturated";
  double tie_tolerance = 0.0;
  double inverse_temperature = 1.0;
  std::string gradient = "zero";
  double ste_temperature = 1.0;
  std::optional<double> scale;
  std::string kl_schedule = "none";
  double kl_weight = 1.0;
  std::optional<int64_t> kv_heads, qkv_dim;
  bool bias = false;
  void describe(OptionSet& o) {
    o.add("weights", weights,
          "soft: softmax; saturated: equal among the largest scores; hard_left, hard_right, "
          "hard_random: all on one of these. A model trained with soft can be evaluated with the "
          "others",
          one_of({"soft", "saturated", "hard_left", "hard_right", "hard_random"}));
    o.add("tie_tolerance", tie_tolerance,
          "saturated, hard_random: how far below the largest a score counts as equal; trained "
          "scores are hardly ever exactly equal. hard_left and hard_right ignore it",
          at_least(0));
    o.add("inverse_temperature", inverse_temperature, "soft: factor on the scores", above(0));
    o.add("gradient", gradient,
          "what queries and keys learn from when weights is not soft: zero = nothing, "
          "straight_through = the softmax's gradient",
          one_of({"zero", "straight_through"}));
    o.add("ste_temperature", ste_temperature,
          "straight_through: factor on the scores of the softmax whose gradient is taken",
          above(0));
    o.add("scale", scale, "factor on the scores; absent = 1/sqrt(head width)");
    o.add("kl_schedule", kl_schedule,
          "a loss that pulls softmax weights towards saturated ones, over the training: none, "
          "constant, linear (grows from 0), ramp (0 in the first half, then grows), phased (0 in "
          "the first half, then whole)",
          one_of({"none", "constant", "linear", "ramp", "phased"}));
    o.add("kl_weight", kl_weight, "kl_schedule: factor on that loss", at_least(0));
    o.add("kv_heads", kv_heads,
          "heads of keys and values, shared by equal groups of query heads; absent = model.heads",
          at_least(1));
    o.add("qkv_dim", qkv_dim, "channels of all heads together; absent = model.width", at_least(1));
    o.add("bias", bias, "biases in the four linear maps");
  }
};

/// Attention whose weights are shared by the keys of the largest score (saturated), or lie on one
/// of them (hard): the limits of softmax(c s) as c grows, where hard is the limit only if there are
/// no ties. |softmax(c s) - saturated|_1 <= 2 (n - |T|)/|T| exp(-c D) for n keys, ties T and a gap
/// D to the next score. y = (sum of v over T) / |T|. Scores are sums of rounded products: the same
/// pair may be tied in one shape of the product and not in another, unless they are integers or
/// tie_tolerance is above 0. hard_random draws once, from the seed, for every head and pair of
/// positions, so that decoding repeats it. O(N²) time; only soft needs O(N) memory. Merrill et al.
/// 2021, arXiv 2106.16213.
class SaturatedAttention final : public Mixer {
 public:
  SaturatedAttention(const SaturatedAttentionOptions& options, const Site& site)
      : options_(options),
        sizes_(projection_sizes(site, options.qkv_dim, options.bias, options.kv_heads)),
        chosen_(chosen_by(options.weights)),
        position_(site.position),
        causal_(site.causal),
        dropout_(site.attention_dropout),
        draws_(site.random.child("hard_random")),
        maps_(add_module("", std::make_shared<Projections>(site, sizes_))) {
    check(!site.cross, "mixer.kind",
          "'saturated_attention' cannot read another sequence; valid: softmax");
    check(soft() || dropout_ == 0.0, "mixer.weights", "found '", options.weights,
          "' with attention dropout ", dropout_,
          ", which would take whole answers away; valid: ", "soft, or no attention dropout");
  }
  static Traits traits(const SaturatedAttentionOptions& o) {
    return {.rotary = true,
            .bias = true,
            .qkv_width = o.qkv_dim.value_or(0),
            // Which of the tied tokens stands first, or is drawn, depends on the order.
            .equivariant = o.weights == "soft" || o.weights == "saturated"};
  }

  Tensor forward(const Tensor& x, Stream& stream, State* state) override {
    if (state) return decode(x, stream, *state);
    const Tensor positions = positions_of(stream, x, nullptr);
    const Tensor q = position_->rotate(maps_->query(x), positions);
    const Tensor k = position_->rotate(maps_->key(x), positions);
    Scores scores = plain_scores();
    scores.causal = causal_;
    scores.bias = position_->bias(positions, positions, q.scalar_type());
    hide_padding(scores, stream.valid);
    regularise(q, k, scores, stream);
    return finish(q, k, maps_->value(x), scores, {positions, positions}, stream);
  }

  State make_state(int64_t batch, int64_t capacity, at::ScalarType type,
                   const at::Device& device) const override {
    if (!causal_) return Mixer::make_state(batch, capacity, type, device);
    const int64_t width = sizes_.head_width;
    return make_token_cache(kOwner, {"key", "value"}, {width, width}, sizes_.kv_heads, batch,
                            capacity, at::TensorOptions(type).device(device));
  }

  void before_step(const Elapsed& elapsed) override { fraction_ = elapsed.fraction; }
  bool steady() const override { return false; }

 private:
  static constexpr const char* kOwner = "mixer saturated_attention";
  struct Places {
    Tensor query, key;
  };

  static std::optional<Chosen> chosen_by(const std::string& weights) {
    if (weights == "saturated") return Chosen::saturated;
    if (weights == "hard_left") return Chosen::hard_left;
    if (weights == "hard_right") return Chosen::hard_right;
    if (weights == "hard_random") return Chosen::hard_random;
    return std::nullopt;
  }
  bool soft() const { return !chosen_; }

  Scores plain_scores() const {
    Scores scores;
    scores.scale = options_.scale.value_or(1.0 / std::sqrt(static_cast<double>(sizes_.head_width)));
    scores.dropout = training() ? dropout_ : 0.0;
    return scores;
  }

  /// The scores times c, what is added to them included.
  static Scores heated(Scores scores, double c) {
    scores.scale = *scores.scale * c;
    if (scores.bias.defined() && c != 1.0) scores.bias = scores.bias * c;
    return scores;
  }

  Tensor keys_of(const Tensor& logits, const Places& places) const {
    const Tensor priority = chosen_ == Chosen::hard_random
                                ? pair_priority(draws_, sizes_.heads, places.query, places.key)
                                : Tensor();
    return chosen_keys(logits, *chosen_, options_.tie_tolerance, priority);
  }

  Tensor mix(const Tensor& q, const Tensor& k, const Tensor& v, const Scores& scores,
             const Places& places) const {
    if (soft()) return attend(q, k, v, heated(scores, options_.inverse_temperature));
    Tensor chosen;
    {
      const c10::NoGradGuard no_grad;
      chosen = keys_of(attention_scores(q, k, scores), places);
    }
    const Tensor y = mean_of_chosen(chosen, v);
    if (options_.gradient == "zero" || !c10::GradMode::is_enabled()) return y;
    // Adds 0, and the softmax's gradient with respect to the scores.
    const Tensor shadow = attend(q, k, v.detach(), heated(scores, options_.ste_temperature));
    return y + (shadow - shadow.detach());
  }

  Tensor finish(const Tensor& q, const Tensor& k, const Tensor& v, const Scores& scores,
                const Places& places, const Stream& stream) const {
    if (stream.observer) {
      stream.show("query", q);
      stream.show("key", k);
      stream.show("value", v);
      show(q, k, scores, places, stream);
    }
    const Tensor y = maps_->output(mix(q, k, v, scores, places));
    stream.show("output", y);
    return y;
  }

  void show(const Tensor& q, const Tensor& k, Scores scores, const Places& places,
            const Stream& stream) const {
    if (soft()) {
      show_attention(stream, q, k, heated(scores, options_.inverse_temperature));
      return;
    }
    if (!wanted(stream, "scores") && !wanted(stream, "attention")) return;
    const c10::NoGradGuard no_grad;
    const Tensor logits = attention_scores(q, k, scores);
    stream.show("scores", logits);
    stream.show("attention", chosen_weights(keys_of(logits, places), logits.scalar_type()));
  }

  /// The share of kl_weight at this point of the training.
  double pull() const {
    const std::string& schedule = options_.kl_schedule;
    if (schedule == "constant") return 1.0;
    if (schedule == "linear") return fraction_;
    if (schedule == "ramp") return std::max(0.0, 2.0 * fraction_ - 1.0);
    if (schedule == "phased") return fraction_ >= 0.5 ? 1.0 : 0.0;
    return 0.0;
  }

  void regularise(const Tensor& q, const Tensor& k, const Scores& scores, Stream& stream) const {
    const double factor = training() ? pull() * options_.kl_weight : 0.0;
    if (factor == 0.0) return;
    Scores plain = heated(scores, options_.inverse_temperature);
    plain.dropout = 0.0;
    Tensor rows = attention_weights(q, k, plain).transpose(1, 2);
    if (stream.valid.defined()) rows = rows.index({stream.valid.to(at::kBool)});
    stream.losses.push_back(factor * saturation_divergence(rows.reshape({-1, k.size(2)})));
  }

  Tensor decode(const Tensor& x, Stream& stream, State& state) const {
    check(causal_, kOwner, "a mixer that sees both ways cannot decode with a state");
    state.accept(x, stream.valid);
    const c10::NoGradGuard no_grad;
    const Tensor positions = positions_of(stream, x, &state);
    const Tensor q = position_->rotate(maps_->query(x), positions);
    const Tensor k = position_->rotate(maps_->key(x), positions);
    Scores scores = plain_scores();
    const CacheView past =
        keep_tokens(state, {{"key", k}, {"value", maps_->value(x)}}, stream.valid);
    past.limit(scores);
    const Tensor key_positions = at::arange(past.total, positions.options());
    scores.bias = position_->bias(positions, key_positions, q.scalar_type());
    const Tensor y = finish(q, state.tensors.at("key").narrow(2, 0, past.total),
                            state.tensors.at("value").narrow(2, 0, past.total), scores,
                            {positions, key_positions}, stream);
    return hide_invalid(y, stream.valid);
  }

  SaturatedAttentionOptions options_;
  ProjectionSizes sizes_;
  std::optional<Chosen> chosen_;  // absent: soft
  std::shared_ptr<Position> position_;
  bool causal_;
  double dropout_;
  RandomStream draws_;
  double fraction_ = 0.0;
  std::shared_ptr<Projections> maps_;
};

const Register<Mixer, SaturatedAttention, SaturatedAttentionOptions> saturated_attention{
    "saturated_attention", "weights shared by the largest scores, or on one of them; or softmax",
    cite("2106.16213"), specified_by("saturated_attention")};

}  // namespace
}  // namespace formwork

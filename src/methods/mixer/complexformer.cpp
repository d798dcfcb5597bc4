#include <c10/core/GradMode.h>

#include <cmath>
#include <numbers>

#include "methods/mixer/attention.h"
#include "methods/mixer/complex_pairs.h"
#include "methods/mixer/head_norm.h"
#include "methods/mixer/mixer.h"
#include "methods/mixer/projections.h"
#include "methods/mixer/token_cache.h"

namespace formwork {
namespace {

constexpr double kNormEps = 1e-6;

struct ComplexformerOptions {
  double base = 10000.0;
  std::string delta_init = "normal";
  bool learn_delta = true, learn_bias = true;
  double scale = 1.0;
  double magnitude_eps = 1e-9, phase_eps = 0.0;
  std::string implementation = "separable";
  bool position = true;
  bool qk_norm = false;
  std::optional<int64_t> kv_heads, qkv_dim;
  void describe(OptionSet& o) {
    o.add("base", base, "pair c of P turns by base^(-c/P) a token", above(0));
    o.add("delta_init", delta_init,
          "how much of a pair's phase counts at first: normal = N(0, 1/P), as released; one = all "
          "of it, which is rotary attention",
          one_of({"normal", "one"}));
    o.add("learn_delta", learn_delta, "train the factors on phases");
    o.add("learn_bias", learn_bias, "train the phase added to every head's pairs");
    o.add("scale", scale, "factor on the scores; the released 1 has no 1/sqrt(head width) in it",
          above(0));
    o.add("magnitude_eps", magnitude_eps, "added to the squared length of a pair", at_least(0));
    o.add("phase_eps", phase_eps,
          "added to the squared length of a pair where the gradient of its phase divides by it",
          at_least(0));
    o.add("implementation", implementation,
          "separable: a map on queries and keys before ordinary attention; pairwise: the same "
          "scores pair by pair, slow, to check it with",
          one_of({"separable", "pairwise"}));
    o.add("position", position, "turn phases by the position of the token");
    o.add("qk_norm", qk_norm, "RMS norm with a gain on each head's queries and keys, before all");
    o.add("kv_heads", kv_heads,
          "heads of keys and values, shared by equal groups of query heads, which then share the "
          "factors on phases; absent = model.heads",
          at_least(1));
    o.add("qkv_dim", qkv_dim, "channels of all heads together; absent = model.width", at_least(1));
  }
};

/// Attention over complex queries and keys: with channels c and c + P of a head of width 2P as a
/// complex number |q| exp(i th), score_mn = scale · sum_c |q_m| |k_n| cos(delta (thq_m - thk_n) + b
/// + (m - n) g), delta and b trained for every head and pair, g_c = base^(-c/P). The cosine of a
/// difference separates: queries and keys are mapped one by one (turn_phases) and dot-product
/// attention does the rest; the cache keeps mapped keys. delta = 1 and b = 0 are rotary positions.
/// Where delta is not an integer, scores jump when a pair crosses the negative real axis. Phases
/// are computed in float32 or wider, m g in float64. The released initialisation of the maps is
/// Xavier uniform; its decoder never masks the future, this one does. Shao et al. 2025, arXiv
/// 2505.10222 (withdrawn by the author).
class Complexformer final : public Mixer {
 public:
  Complexformer(const ComplexformerOptions& options, const Site& site)
      : options_(options),
        pairs_{options.magnitude_eps, options.phase_eps},
        sizes_(projection_sizes(site, options.qkv_dim, false, options.kv_heads)),
        causal_(site.causal),
        dropout_(site.attention_dropout),
        maps_(add_module("", std::make_shared<Projections>(site, sizes_))) {
    check(!site.cross, "mixer.kind",
          "'complexformer' cannot read another sequence; valid: softmax");
    check(sizes_.head_width % 2 == 0, "model.heads", "found heads of width ", sizes_.head_width,
          ", but 'complexformer' makes complex numbers of pairs of channels; valid: an even width");
    const int64_t half = sizes_.head_width / 2;
    const Tensor start =
        options.delta_init == "one"
            ? at::ones({sizes_.kv_heads, half})
            : normal_tensor({sizes_.kv_heads, half}, 1.0 / std::sqrt(static_cast<double>(half)),
                            site.random.child("delta"));
    const Tensor none = at::zeros({sizes_.heads, half});
    delta_ = options.learn_delta ? add_parameter("delta", start, Role::position)
                                 : add_buffer("delta", start);
    phase_bias_ = options.learn_bias ? add_parameter("phase_bias", none, Role::bias)
                                     : add_buffer("phase_bias", none);
    frequencies_ =
        at::pow(options.base, at::arange(half, at::kDouble) / -static_cast<double>(half));
    if (!options.qk_norm) return;
    q_gain_ = add_parameter("q_norm.weight", at::ones({sizes_.head_width}), Role::norm);
    k_gain_ = add_parameter("k_norm.weight", at::ones({sizes_.head_width}), Role::norm);
  }
  static Traits traits(const ComplexformerOptions& o) {
    return {.qkv_width = o.qkv_dim.value_or(0), .equivariant = !o.position};
  }

  Tensor forward(const Tensor& x, Stream& stream, State* state) override {
    if (state) return decode(x, stream, *state);
    const Tensor positions = positions_of(stream, x, nullptr);
    Scores scores = plain_scores();
    scores.causal = causal_;
    hide_padding(scores, stream.valid);
    return finish(query(x, positions), key(x, positions), maps_->value(x), scores,
                  {positions, positions}, stream);
  }

  State make_state(int64_t batch, int64_t capacity, at::ScalarType type,
                   const at::Device& device) const override {
    if (!causal_) return Mixer::make_state(batch, capacity, type, device);
    const int64_t width = sizes_.head_width;
    return make_token_cache(kOwner, {"key", "value"}, {width, width}, sizes_.kv_heads, batch,
                            capacity, at::TensorOptions(type).device(device));
  }

 private:
  static constexpr const char* kOwner = "mixer complexformer";
  struct Places {
    Tensor query, key;
  };

  bool separable() const { return options_.implementation == "separable"; }
  static at::ScalarType wide(const Tensor& x) {
    return at::promote_types(x.scalar_type(), at::kFloat);
  }

  Tensor query(const Tensor& x, const Tensor& positions) const {
    const Tensor q = norm_each_head(maps_->query(x), q_gain_, kNormEps);
    if (!separable()) return q;
    const int64_t groups = sizes_.heads / sizes_.kv_heads;
    return turned(q, groups == 1 ? delta_ : delta_.repeat_interleave(groups, 0),
                  angles(positions, wide(q)) + phase_bias_.to(wide(q)).unsqueeze(1));
  }
  Tensor key(const Tensor& x, const Tensor& positions) const {
    const Tensor k = norm_each_head(maps_->key(x), k_gain_, kNormEps);
    return separable() ? turned(k, delta_, angles(positions, wide(k))) : k;
  }

  /// x [B,H,N,K] mapped; delta [H,P].
  Tensor turned(const Tensor& x, const Tensor& delta, const Tensor& shift) const {
    const Tensor exact = x.to(wide(x));
    // A delta that stays 1 asks for no phase.
    if (options_.delta_init == "one" && !options_.learn_delta)
      return turn_pairs(exact, shift, pairs_).to(x.scalar_type());
    return turn_phases(exact, delta.to(wide(x)).unsqueeze(1), shift, pairs_).to(x.scalar_type());
  }

  /// m g modulo 2 pi: [1 or B,1,N,P].
  Tensor angles(const Tensor& positions, at::ScalarType type) const {
    const Tensor rows = positions.dim() == 1 ? positions.unsqueeze(0) : positions;
    const Tensor g = frequencies_.to(positions.device());
    const Tensor angle = rows.to(at::kDouble).unsqueeze(-1) * (options_.position ? g : g * 0.0);
    return at::remainder(angle, 2.0 * std::numbers::pi).to(type).unsqueeze(1);
  }

  Scores plain_scores() const {
    Scores scores;
    scores.scale = options_.scale;
    scores.dropout = training() ? dropout_ : 0.0;
    return scores;
  }

  Tensor finish(Tensor q, Tensor k, const Tensor& v, Scores scores, const Places& places,
                const Stream& stream) const {
    if (!separable()) {
      const auto type = wide(q);
      scores.bias = options_.scale *
                    pairwise_scores(q.to(type), k.to(type), delta_.to(type).unsqueeze(1),
                                    phase_bias_.to(type).unsqueeze(1), angles(places.query, type),
                                    angles(places.key, type), pairs_);
      // What is left of the products is nothing; masks, groups and softmax are those of attend.
      q = at::zeros_like(q);
      k = at::zeros_like(k);
    }
    show_parts(stream, q, k, v, scores);
    const Tensor y = maps_->output(attend(q, k, v, scores));
    stream.show("output", y);
    return y;
  }

  Tensor decode(const Tensor& x, Stream& stream, State& state) const {
    check(causal_, kOwner, "a mixer that sees both ways cannot decode with a state");
    state.accept(x, stream.valid);
    const c10::NoGradGuard no_grad;
    const Tensor positions = positions_of(stream, x, &state);
    const Tensor q = query(x, positions), k = key(x, positions);
    const CacheView past =
        keep_tokens(state, {{"key", k}, {"value", maps_->value(x)}}, stream.valid);
    Scores scores = plain_scores();
    past.limit(scores);
    const Tensor y = finish(q, state.tensors.at("key").narrow(2, 0, past.total),
                            state.tensors.at("value").narrow(2, 0, past.total), scores,
                            {positions, at::arange(past.total, positions.options())}, stream);
    return hide_invalid(y, stream.valid);
  }

  ComplexformerOptions options_;
  PairOptions pairs_;
  ProjectionSizes sizes_;
  bool causal_;
  double dropout_;
  std::shared_ptr<Projections> maps_;
  Tensor delta_, phase_bias_;
  Tensor frequencies_;  // [P] float64
  Tensor q_gain_, k_gain_;
};

const Register<Mixer, Complexformer, ComplexformerOptions> complexformer{
    "complexformer", "attention over complex queries and keys, positions in their phases",
    cite("2505.10222"), specified_by("complexformer")};

}  // namespace
}  // namespace formwork

#include <c10/core/GradMode.h>

#include "methods/mixer/attention.h"
#include "methods/mixer/head_norm.h"
#include "methods/mixer/mixer.h"
#include "methods/mixer/projections.h"
#include "methods/mixer/token_cache.h"

namespace formwork {
namespace {

constexpr double kNormEps = 1e-6;

struct SoftmaxOptions {
  std::optional<int64_t> kv_heads, qkv_dim;
  std::optional<double> scale;
  bool bias = false;
  bool qk_norm = false;
  void describe(OptionSet& o) {
    o.add("kv_heads", kv_heads,
          "heads of keys and values, shared by equal groups of query heads; absent = model.heads",
          at_least(1));
    o.add("qkv_dim", qkv_dim, "channels of all heads together; absent = model.width", at_least(1));
    o.add("scale", scale, "factor on the scores; absent = 1/sqrt(head width)");
    o.add("bias", bias, "biases in the four linear maps");
    o.add("qk_norm", qk_norm, "RMS norm with a gain on each head's queries and keys");
  }
};

/// Multi-head attention: y_i = sum_j softmax_j(scale q_i·k_j + bias_ij) v_j, heads concatenated and
/// mixed by out_proj; O(N²) time, O(N) memory. With fewer key heads than query heads it is
/// grouped-query (Ainslie et al. 2023, arXiv 2305.13245) or multi-query attention (Shazeer 2019,
/// arXiv 1911.02150). Reading another sequence (Site::cross) it knows no positions of pairs.
/// Vaswani et al. 2017, arXiv 1706.03762.
class Softmax final : public Mixer {
 public:
  Softmax(const SoftmaxOptions& options, const Site& site)
      : sizes_(projection_sizes(site, options.qkv_dim, options.bias, options.kv_heads)),
        scale_(options.scale),
        position_(site.position),
        causal_(site.causal && !site.cross),
        cross_(site.cross),
        dropout_(site.attention_dropout),
        maps_(add_module("", std::make_shared<Projections>(site, sizes_))) {
    if (!options.qk_norm) return;
    q_gain_ = add_parameter("q_norm.weight", at::ones({sizes_.head_width}), Role::norm);
    k_gain_ = add_parameter("k_norm.weight", at::ones({sizes_.head_width}), Role::norm);
  }
  static Traits traits(const SoftmaxOptions& o) {
    return {.cross = true, .rotary = true, .bias = true, .qkv_width = o.qkv_dim.value_or(0)};
  }

  Tensor forward(const Tensor& x, Stream& stream, State* state) override {
    if (cross_) return read_memory(x, stream, state);
    if (state) return decode(x, stream, *state);
    const Tensor positions = positions_of(stream, x, nullptr);
    const Tensor q = position_->rotate(query(x), positions);
    const Tensor k = position_->rotate(key(x), positions);
    Scores scores = plain_scores();
    scores.causal = causal_;
    scores.bias = position_->bias(positions, positions, q.scalar_type());
    hide_padding(scores, stream.valid);
    return finish(q, k, maps_->value(x), scores, stream);
  }

  State make_state(int64_t batch, int64_t capacity, at::ScalarType type,
                   const at::Device& device) const override {
    if (cross_) return State(kOwner, Forgetting::fixed, batch, -1);
    if (!causal_) return Mixer::make_state(batch, capacity, type, device);
    const int64_t width = sizes_.head_width;
    return make_token_cache(kOwner, {"key", "value"}, {width, width}, sizes_.kv_heads, batch,
                            capacity, at::TensorOptions(type).device(device));
  }

 private:
  static constexpr const char* kOwner = "mixer softmax";
  Tensor query(const Tensor& x) const { return norm_each_head(maps_->query(x), q_gain_, kNormEps); }
  Tensor key(const Tensor& x) const { return norm_each_head(maps_->key(x), k_gain_, kNormEps); }

  Scores plain_scores() const {
    Scores scores;
    scores.scale = scale_;
    scores.dropout = training() ? dropout_ : 0.0;
    return scores;
  }

  Tensor finish(const Tensor& q, const Tensor& k, const Tensor& v, const Scores& scores,
                const Stream& stream) const {
    show_parts(stream, q, k, v, scores);
    const Tensor y = maps_->output(attend(q, k, v, scores));
    stream.show("output", y);
    return y;
  }

  /// Keys and values come from Stream::memory; a state keeps them from the first call on.
  Tensor read_memory(const Tensor& x, Stream& stream, State* state) const {
    if (state) {
      const c10::NoGradGuard no_grad;
      return hide_invalid(read_state(x, stream, *state), stream.valid);
    }
    Scores scores = plain_scores();
    if (stream.memory_valid.defined())
      scores.allowed = stream.memory_valid.unsqueeze(1).unsqueeze(2);
    return finish(query(x), key(stream.memory), maps_->value(stream.memory), scores, stream);
  }

  Tensor read_state(const Tensor& x, Stream& stream, State& state) const {
    state.accept(x.detach(), stream.valid);
    // A row that was reset reads its new memory.
    const auto ready = state.tensors.find("ready");
    if (ready == state.tensors.end() || !ready->second.all().item<bool>()) {
      check(stream.memory.defined(), kOwner, "cross-attention has no memory to read");
      state.tensors["key"] = key(stream.memory).contiguous();
      state.tensors["value"] = maps_->value(stream.memory).contiguous();
      const auto flags = x.options().dtype(at::kBool);
      state.tensors["valid"] = stream.memory_valid.defined()
                                   ? stream.memory_valid.to(at::kBool)
                                   : at::ones(stream.memory.sizes().slice(0, 2), flags);
      state.tensors["ready"] = at::ones({x.size(0)}, flags);
    }
    Scores scores = plain_scores();
    const Tensor& valid = state.tensors.at("valid");
    if (!all_valid(valid)) scores.allowed = valid.unsqueeze(1).unsqueeze(2);
    return finish(query(x), state.tensors.at("key"), state.tensors.at("value"), scores, stream);
  }

  Tensor decode(const Tensor& x, Stream& stream, State& state) const {
    check(causal_, kOwner, "a mixer that sees both ways cannot decode with a state");
    state.accept(x, stream.valid);
    const c10::NoGradGuard no_grad;
    const Tensor positions = positions_of(stream, x, &state);
    const Tensor q = position_->rotate(query(x), positions);
    const Tensor k = position_->rotate(key(x), positions);
    const CacheView past =
        keep_tokens(state, {{"key", k}, {"value", maps_->value(x)}}, stream.valid);
    Scores scores = plain_scores();
    past.limit(scores);
    const Tensor key_positions = at::arange(past.total, positions.options());
    scores.bias = position_->bias(positions, key_positions, q.scalar_type());
    const Tensor y = finish(q, state.tensors.at("key").narrow(2, 0, past.total),
                            state.tensors.at("value").narrow(2, 0, past.total), scores, stream);
    return hide_invalid(y, stream.valid);
  }

  ProjectionSizes sizes_;
  std::optional<double> scale_;
  std::shared_ptr<Position> position_;
  bool causal_, cross_;
  double dropout_;
  std::shared_ptr<Projections> maps_;
  Tensor q_gain_, k_gain_;
};

const Register<Mixer, Softmax, SoftmaxOptions> softmax{
    "softmax", "multi-head softmax attention, grouped or multi-query", cite("1706.03762"),
    specified_by("decode_state")};

}  // namespace
}  // namespace formwork

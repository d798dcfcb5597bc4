#include <c10/core/GradMode.h>

#include <algorithm>

#include "methods/mixer/linear_attention.h"
#include "methods/mixer/mixer.h"
#include "methods/mixer/projections.h"
#include "methods/selective_observer.h"

namespace formwork {
namespace {

struct LinearMixerOptions {
  std::string feature_map = "elu1";
  double eps = 1e-6;
  int64_t chunk = 64;
  std::string state_dtype = "float32";
  std::optional<int64_t> qkv_dim;
  bool bias = false;
  void describe(OptionSet& o) {
    o.add("feature_map", feature_map,
          "phi: elu(u) + 1, relu(u) + eps, or the softmax over a head's channels",
          one_of({"elu1", "relu", "softmax"}));
    o.add("eps", eps, "added to the sum of weights, and by feature map relu", at_least(0));
    o.add("chunk", chunk, "tokens that a causal pass multiplies at once; speed only", at_least(1));
    o.add("state_dtype", state_dtype,
          "type of the sums kept while decoding, widened to the model's where that is wider",
          one_of({"float32", "float64"}));
    o.add("qkv_dim", qkv_dim, "channels of all heads together; absent = model.width", at_least(1));
    o.add("bias", bias, "biases in the four linear maps");
  }
};

/// Attention with weights phi(q)·phi(k) instead of exp(q·k), O(N) time: with S = sum_j phi(k_j)
/// v_jᵀ [K,V] and z = sum_j phi(k_j), y_i = Sᵀ phi(q_i) / (phi(q_i)·z + eps); causal with sums over
/// j <= i. Rotary positions turn phi(q) and phi(k) in the numerator only (Su et al. 2021, arXiv
/// 2104.09864, eq. 19). Katharopoulos et al. 2020, arXiv 2006.16236.
class LinearMixer final : public Mixer {
 public:
  LinearMixer(const LinearMixerOptions& options, const Site& site)
      : options_(options),
        sizes_(projection_sizes(site, options.qkv_dim, options.bias)),
        position_(site.position),
        causal_(site.causal),
        maps_(add_module("", std::make_shared<Projections>(site, sizes_))) {
    check(!site.cross, "mixer.kind", "'linear' cannot read another sequence; valid: softmax");
  }
  static Traits traits(const LinearMixerOptions& o) {
    return {.rotary = true, .qkv_width = o.qkv_dim.value_or(0)};
  }

  Tensor forward(const Tensor& x, Stream& stream, State* state) override {
    if (!state) return finish(mix(x, stream, nullptr), x, stream);
    check(causal_, kOwner, "a mixer that sees both ways cannot decode with a state");
    state->accept(x, stream.valid);
    const c10::NoGradGuard no_grad;
    const Tensor y = hide_invalid(finish(mix(x, stream, state), x, stream), stream.valid);
    state->advance(x.size(1), stream.valid);
    return y;
  }

  State make_state(int64_t batch, int64_t capacity, at::ScalarType type,
                   const at::Device& device) const override {
    if (!causal_) return Mixer::make_state(batch, capacity, type, device);
    State state(kOwner, Forgetting::snapshot, batch, -1);
    const bool wide = type == at::kDouble || options_.state_dtype == "float64";
    const at::TensorOptions kind =
        at::TensorOptions(wide ? at::kDouble : at::kFloat).device(device);
    const int64_t heads = sizes_.heads, width = sizes_.head_width;
    state.tensors["sum"] = at::zeros({batch, heads, width, width}, kind);
    state.tensors["norm"] = at::zeros({batch, heads, width}, kind);
    return state;
  }

 private:
  static constexpr const char* kOwner = "mixer linear";
  Tensor features(const Tensor& u) const {
    if (options_.feature_map == "softmax") return u.softmax(-1);
    if (options_.feature_map == "relu") return u.relu() + options_.eps;
    // exp(u) below 0 as it is: elu(u) + 1 would round small weights to 0.
    return u.clamp_max(0).exp() + u.relu();
  }

  /// → [B,H,N,K], in float32 or wider.
  Tensor mix(const Tensor& x, Stream& stream, State* state) const {
    const Tensor positions = positions_of(stream, x, state);
    at::ScalarType type = at::promote_types(x.scalar_type(), at::kFloat);
    if (state) type = at::promote_types(type, state->tensors.at("sum").scalar_type());
    LinearAttention all;
    all.q_norm = features(maps_->query(x).to(type));
    all.k_norm = features(maps_->key(x).to(type));
    all.v = maps_->value(x).to(type);
    if (stream.valid.defined()) {
      const Tensor padded = stream.valid.logical_not().unsqueeze(1).unsqueeze(-1);
      all.k_norm = all.k_norm.masked_fill(padded, 0);
      // A token that does not count must not spoil the sums even where it is infinite.
      all.v = all.v.masked_fill(padded, 0);
    }
    all.q = position_->rotate(all.q_norm, positions);
    all.k = position_->rotate(all.k_norm, positions);
    all.eps = options_.eps;
    if (stream.observer) {
      stream.show("query", all.q);
      stream.show("key", all.k);
      stream.show("value", all.v);
      if (!state && wanted(stream, "attention")) stream.show("attention", weights(all));
    }
    if (!causal_) return linear_attention(all);
    if (!state) return causal_linear_attention(all, options_.chunk, nullptr);
    LinearSums sums{state->tensors.at("sum"), state->tensors.at("norm")};
    const Tensor y = x.size(1) == 1 ? linear_attention_step(all, sums)
                                    : causal_linear_attention(all, options_.chunk, &sums);
    state->tensors["sum"] = sums.sum;
    state->tensors["norm"] = sums.norm;
    return y;
  }

  /// What the values are weighted with [B,H,N,N], which the mixer itself never forms. With rotary
  /// positions some are negative.
  Tensor weights(const LinearAttention& all) const {
    const c10::NoGradGuard no_grad;
    Tensor above = at::matmul(all.q, all.k.transpose(-2, -1));
    Tensor below = at::matmul(all.q_norm, all.k_norm.transpose(-2, -1));
    if (causal_) {
      above = above.tril();
      below = below.tril();
    }
    return above / (below.sum(-1, true) + all.eps);
  }

  Tensor finish(const Tensor& y, const Tensor& x, const Stream& stream) const {
    const Tensor mixed = maps_->output(y.to(x.scalar_type()));
    stream.show("output", mixed);
    return mixed;
  }

  LinearMixerOptions options_;
  ProjectionSizes sizes_;
  std::shared_ptr<Position> position_;
  bool causal_;
  std::shared_ptr<Projections> maps_;
};

const Register<Mixer, LinearMixer, LinearMixerOptions> linear{
    "linear", "attention with a feature map instead of the softmax, linear in the length",
    cite("2006.16236"), specified_by("linear_transformer")};

}  // namespace
}  // namespace formwork

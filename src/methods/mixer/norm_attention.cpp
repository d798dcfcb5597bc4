#include <c10/core/GradMode.h>

#include "kernels/matrix_state.h"
#include "methods/mixer/head_norm.h"
#include "methods/mixer/mixer.h"
#include "methods/mixer/projections.h"

namespace formwork {
namespace {

struct NormAttentionOptions {
  std::string act = "elu1";
  Choice<Norm> norm{"simple_rms"};
  int64_t chunk = 64;
  std::string state_dtype = "float32";
  std::optional<int64_t> qkv_dim;
  bool bias = true;
  bool as_released = false;
  void describe(OptionSet& o) {
    o.add("act", act,
          "what queries and keys go through: elu1 = elu + 1 (the paper's T2), elu (T1; weights may "
          "be negative), identity",
          one_of({"elu1", "elu", "identity"}));
    o.add_choice("norm", norm,
                 "the norm over all heads in place of a denominator: simple_rms, gated_rms, "
                 "rms_norm, layer_norm, scale_norm ...");
    o.add("chunk", chunk, "tokens that a causal pass multiplies at once; speed only", at_least(1));
    o.add("state_dtype", state_dtype,
          "type of the sums kept while decoding, widened to the model's where that is wider",
          one_of({"float32", "float64"}));
    o.add("qkv_dim", qkv_dim, "channels of all heads together; absent = model.width", at_least(1));
    o.add("bias", bias, "biases in the four linear maps");
    o.add("as_released", as_released,
          "padded tokens take part with the keys and values of their biases, as in the released "
          "code, which takes a mask and ignores it");
  }
};

/// NormAttention: o_i = sum_j (q_i·k_j) v_j with q = f(x Wq), k = f(x Wk) and no denominator, whose
/// gradient is unbounded; instead the heads' outputs together are normed, y = Norm(o) Wo. O(N)
/// time: causal sums run over chunks, where the released code forms the N x N products. Positions
/// that rotate act after f. The released start is Xavier uniform, with gain 1/sqrt(2) for q, k and
/// v. State: the sum of k vᵀ, [H,K,K]. Qin et al. 2022, arXiv 2210.10340.
class NormAttention final : public Mixer {
 public:
  NormAttention(const NormAttentionOptions& options, const Site& site)
      : options_(options),
        sizes_(projection_sizes(site, options.qkv_dim, options.bias)),
        position_(site.position),
        causal_(site.causal),
        maps_(add_module("", std::make_shared<Projections>(site, sizes_))) {
    check(!site.cross, "mixer.kind",
          "'norm_attention' cannot read another sequence; valid: softmax");
    NormSite where;
    where.width = sizes_.heads * sizes_.head_width;
    where.random = site.random.child("norm");
    norm_ = add_module("norm", options.norm.make(where));
  }
  static Traits traits(const NormAttentionOptions& o) {
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
    const int64_t width = sizes_.head_width;
    state.tensors["sum"] = at::zeros({batch, sizes_.heads, width, width}, kind);
    return state;
  }

 private:
  static constexpr const char* kOwner = "mixer norm_attention";
  Tensor act(const Tensor& u) const {
    if (options_.act == "identity") return u;
    // exp(u) below 0 as it is: elu(u) + 1 would round small weights to 0.
    return options_.act == "elu" ? at::elu(u) : u.clamp_max(0).exp() + u.relu();
  }

  /// → [B,H,N,K], in float32 or wider.
  Tensor mix(const Tensor& x, Stream& stream, State* state) const {
    const Tensor positions = positions_of(stream, x, state);
    at::ScalarType type = at::promote_types(x.scalar_type(), at::kFloat);
    if (state) type = at::promote_types(type, state->tensors.at("sum").scalar_type());
    const Tensor q = position_->rotate(act(maps_->query(x).to(type)), positions);
    Tensor k = position_->rotate(act(maps_->key(x).to(type)), positions);
    Tensor v = maps_->value(x).to(type);
    // With a state an invalid token is none of the row's, whatever the released code does.
    if (stream.valid.defined() && (state || !options_.as_released)) {
      const Tensor padded = stream.valid.logical_not().unsqueeze(1).unsqueeze(-1);
      // Both: a token that does not count must not spoil the sums even where it is infinite.
      k = k.masked_fill(padded, 0);
      v = v.masked_fill(padded, 0);
    }
    if (stream.observer) {
      stream.show("query", q);
      stream.show("key", k);
      stream.show("value", v);
    }
    if (!causal_) return at::matmul(q, at::matmul(k.transpose(-2, -1), v));
    if (!state) return matrix_state_scan({q, k, v}, options_.chunk);
    Tensor& sum = state->tensors.at("sum");
    if (x.size(1) > 1) return matrix_state_scan({q, k, v, {}, &sum}, options_.chunk);
    sum.addcmul_(k.transpose(-2, -1), v);
    return at::matmul(q, sum);
  }

  Tensor finish(const Tensor& y, const Tensor& x, const Stream& stream) const {
    const Tensor normed = norm_heads(y, *norm_, stream.valid);
    const Tensor mixed = maps_->output(normed.to(x.scalar_type()));
    stream.show("output", mixed);
    return mixed;
  }

  NormAttentionOptions options_;
  ProjectionSizes sizes_;
  std::shared_ptr<Position> position_;
  bool causal_;
  std::shared_ptr<Projections> maps_;
  std::shared_ptr<Norm> norm_;
};

const Register<Mixer, NormAttention, NormAttentionOptions> norm_attention{
    "norm_attention", "attention with a norm instead of the softmax, linear in the length",
    cite("2210.10340"), specified_by("transnormer")};

}  // namespace
}  // namespace formwork

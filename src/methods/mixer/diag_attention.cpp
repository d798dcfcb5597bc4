#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>

#include "methods/dropout.h"
#include "methods/mixer/attention.h"
#include "methods/mixer/banded.h"
#include "methods/mixer/head_norm.h"
#include "methods/mixer/mixer.h"
#include "methods/mixer/projections.h"
#include "methods/mixer/ring.h"

namespace formwork {
namespace {

struct DiagAttentionOptions {
  std::string scores = "softmax";
  int64_t chunk = 64;
  Choice<Norm> norm{"simple_rms"};
  std::optional<int64_t> qkv_dim;
  bool bias = true;
  int64_t slack = 0;
  bool as_released = false;
  void describe(OptionSet& o) {
    o.add("scores", scores,
          "what a query weighs the values of its chunk with: softmax (the paper's T2), or relu "
          "without a denominator and a norm on the result (T1)",
          one_of({"softmax", "relu"}));
    o.add("chunk", chunk, "tokens that see each other", at_least(1));
    o.add_choice("norm", norm, "with scores = \"relu\": the norm over all heads");
    o.add("qkv_dim", qkv_dim, "channels of all heads together; absent = model.width", at_least(1));
    o.add("bias", bias, "biases in the four linear maps");
    o.add("slack", slack, "tokens that a state can forget without replaying", at_least(0));
    o.add("as_released", as_released,
          "padded tokens take part with the keys and values of their biases, and the zeros after "
          "the last token in the softmax of the last chunk, as in the released code");
  }
};

/// The chunk's products without a softmax: relu(scale q·k + bias) v, closed pairs 0.
/// q [..., W, K], k and v [..., W', K].
struct ReluScores {
  Tensor allowed, bias;  // broadcast to [..., W, W'], or undefined
  bool causal = false;
  double dropout = 0.0;
};
Tensor relu_attend(const Tensor& q, const Tensor& k, const Tensor& v, const ReluScores& scores) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(-1)));
  Tensor products = at::matmul(q * scale, k.transpose(-2, -1));
  if (scores.bias.defined()) products = products + scores.bias;
  Tensor weights = products.relu();
  if (scores.causal) weights = weights.tril();
  if (scores.allowed.defined()) weights = weights.masked_fill(scores.allowed.logical_not(), 0);
  return at::matmul(dropped(weights, scores.dropout, true), v);
}

/// x [..., N, ...] along `dim` with its last entry repeated up to `whole` entries.
Tensor repeat_last(const Tensor& x, int64_t dim, int64_t whole) {
  const Tensor index = at::arange(whole, x.options().dtype(at::kLong)).clamp_max(x.size(dim) - 1);
  return x.index_select(dim, index);
}

/// DiagAttention: tokens attend inside chunks of `chunk` tokens that do not overlap, scores
/// q·k/sqrt(K); O(N·chunk) time and memory. Positions act on differences, so counting them anew in
/// each chunk, as the released code does, changes nothing. The released Long Range Arena variant
/// that masks after the softmax is left out. State: the last chunk. Qin et al. 2022, arXiv
/// 2210.10340.
class DiagAttention final : public Mixer {
 public:
  DiagAttention(const DiagAttentionOptions& options, const Site& site)
      : softmax_(options.scores == "softmax"),
        as_released_(options.as_released),
        slack_(options.slack),
        sizes_(projection_sizes(site, options.qkv_dim, options.bias)),
        position_(site.position),
        dropout_(site.attention_dropout),
        maps_(add_module("", std::make_shared<Projections>(site, sizes_))),
        band_{options.chunk, 0, 0, false, site.causal} {
    check(!site.cross, "mixer.kind",
          "'diag_attention' cannot read another sequence; valid: softmax");
    if (softmax_) return;
    NormSite where;
    where.width = sizes_.heads * sizes_.head_width;
    where.random = site.random.child("norm");
    norm_ = add_module("norm", options.norm.make(where));
  }
  static Traits traits(const DiagAttentionOptions& o) {
    return {.rotary = true, .bias = true, .qkv_width = o.qkv_dim.value_or(0), .equivariant = false};
  }

  Tensor forward(const Tensor& given, Stream& stream, State* state) override {
    if (state) return decode(given, stream, *state);
    const Tensor valid = as_released_ ? Tensor() : stream.valid;
    const Tensor x = hide_invalid(given, valid);
    const Tensor positions = positions_of(stream, x, nullptr);
    const Tensor q = position_->rotate(maps_->query(x), positions);
    const Tensor k = position_->rotate(maps_->key(x), positions);
    const Tensor y = as_released_ ? released(q, k, maps_->value(x), positions)
                                  : attend_chunks(q, k, maps_->value(x), valid, positions);
    return finish(y, stream, valid);
  }

  State make_state(int64_t batch, int64_t capacity, at::ScalarType type,
                   const at::Device& device) const override {
    if (!band_.causal) return Mixer::make_state(batch, capacity, type, device);
    State state(kOwner, Forgetting::ring, batch, -1, slack_);
    const at::TensorOptions options = at::TensorOptions(type).device(device);
    for (const char* name : {"key", "value"})
      state.tensors[name] =
          at::zeros({batch, sizes_.heads, band_.block + slack_, sizes_.head_width}, options);
    return state;
  }

 private:
  static constexpr const char* kOwner = "mixer diag_attention";
  double dropout() const { return training() ? dropout_ : 0.0; }

  /// q,k,v [B,H,N,K] → [B,H,N,K].
  Tensor attend_chunks(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& valid,
                       const Tensor& positions) const {
    if (softmax_) return banded_attention(q, k, v, band_, {valid, positions, position_, dropout()});
    const int64_t n = q.size(2), block = fitted(band_, n).block;
    const int64_t blocks = (n + block - 1) / block, missing = blocks * block - n;
    const auto split = [&](const Tensor& x) {
      return at::constant_pad_nd(x, {0, 0, 0, missing}).unflatten(2, {blocks, block});
    };
    ReluScores scores{{}, {}, band_.causal, dropout()};
    if (valid.defined())
      scores.allowed = at::constant_pad_nd(valid, {0, missing}).view({-1, 1, blocks, 1, block});
    scores.bias = bias_of(positions, blocks, block, q.scalar_type());
    return relu_attend(split(q), split(k), split(v), scores).flatten(2, 3).narrow(2, 0, n);
  }

  /// [B or 1, H, C, W, W], or undefined. Zeros after the last token weigh nothing, whatever theirs.
  Tensor bias_of(const Tensor& positions, int64_t blocks, int64_t block,
                 at::ScalarType type) const {
    const Tensor rows = positions.dim() == 1 ? positions.unsqueeze(0) : positions;
    const Tensor places = repeat_last(rows, 1, blocks * block).unflatten(1, {blocks, block});
    const Tensor bias = block_bias(*position_, places, places, type);
    return bias.defined() ? bias.transpose(1, 2) : bias;
  }

  /// With zeros up to a whole chunk that count as tokens.
  Tensor released(const Tensor& q, const Tensor& k, const Tensor& v,
                  const Tensor& positions) const {
    const int64_t n = q.size(2), whole = (n + band_.block - 1) / band_.block * band_.block;
    const auto pad = [&](const Tensor& x) { return at::constant_pad_nd(x, {0, 0, 0, whole - n}); };
    const Tensor places = repeat_last(positions, positions.dim() - 1, whole);
    return attend_chunks(pad(q), pad(k), pad(v), {}, places).narrow(2, 0, n);
  }

  /// y [B,H,N,K] → [B,N,D], 0 at padded tokens.
  Tensor finish(const Tensor& y, const Stream& stream, const Tensor& valid) const {
    const Tensor normed = norm_ ? norm_heads(y, *norm_, valid) : y;
    const Tensor mixed = hide_invalid(maps_->output(normed), valid);
    stream.show("output", mixed);
    return mixed;
  }

  Tensor decode(const Tensor& given, Stream& stream, State& state) const {
    check(band_.causal, kOwner, "a mixer that sees both ways cannot decode with a state");
    state.accept(given, stream.valid);
    const c10::NoGradGuard no_grad;
    // What stands at invalid tokens must not reach a product, not even times 0.
    const Tensor x = hide_invalid(given, stream.valid);
    const Tensor positions = positions_of(stream, x, &state);
    const Tensor q = position_->rotate(maps_->query(x), positions);
    const Tensor k = position_->rotate(maps_->key(x), positions);
    const Tensor v = maps_->value(x);
    const RingFeed feed(state, x.size(1), stream.valid, x.device());
    const Tensor y = x.size(1) == 1 ? step(q, k, v, positions, feed, state)
                                    : prefill(q, k, v, positions, feed, state);
    state.advance(x.size(1), stream.valid);
    return finish(y, stream, stream.valid);
  }

  /// One token a row: attention over the ring as it lies.
  Tensor step(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& positions,
              const RingFeed& feed, State& state) const {
    Tensor& keys = state.tensors.at("key");
    Tensor& values = state.tensors.at("value");
    keys = feed.push(keys, k);
    values = feed.push(values, v);
    const Tensor held = feed.held(keys.size(2));  // [B,R]
    const Tensor first = feed.places().floor_divide(band_.block) * band_.block;
    const Tensor open = (held >= first.clamp_min(0)).unsqueeze(1).unsqueeze(2);
    const Tensor query = positions.dim() == 2 ? positions : positions.expand({q.size(0), 1});
    const Tensor bias = position_->bias(query, held.clamp_min(0), q.scalar_type());
    if (!softmax_) return relu_attend(q, keys, values, {open, bias, false, 0.0});
    return attend(q, keys, values, {open, bias, false, 0.0, {}});
  }

  Tensor prefill(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& positions,
                 const RingFeed& feed, State& state) const {
    Tensor& keys = state.tensors.at("key");
    Tensor& values = state.tensors.at("value");
    Tensor y;
    if (feed.fresh()) {
      y = attend_chunks(q, k, v, {}, positions);
    } else {
      // What may still be seen of the present chunk and the new tokens, each row from a border on.
      const RingWindow window = feed.window(keys.size(2), band_.block - 1, band_.block);
      y = window.take(attend_chunks(window.queries(q), window.join(keys, k), window.join(values, v),
                                    {}, window.positions));
    }
    keys = feed.push(keys, k);
    values = feed.push(values, v);
    return y;
  }

  bool softmax_, as_released_;
  int64_t slack_;
  ProjectionSizes sizes_;
  std::shared_ptr<Position> position_;
  double dropout_;
  std::shared_ptr<Projections> maps_;
  std::shared_ptr<Norm> norm_;
  Band band_;
};

const Register<Mixer, DiagAttention, DiagAttentionOptions> diag_attention{
    "diag_attention", "softmax or relu attention inside chunks of tokens", cite("2210.10340"),
    specified_by("transnormer")};

}  // namespace
}  // namespace formwork

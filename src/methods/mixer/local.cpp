#include <c10/core/GradMode.h>

#include <algorithm>

#include "methods/mixer/attention.h"
#include "methods/mixer/banded.h"
#include "methods/mixer/mixer.h"
#include "methods/mixer/projections.h"
#include "methods/mixer/ring.h"
#include "methods/selective_observer.h"

namespace formwork {
namespace {

struct LocalOptions {
  std::string mode = "block";
  bool as_released = false;
  int64_t block_size = 50;
  int64_t look_back = 0, look_forward = 0;
  int64_t window = 128;
  std::optional<int64_t> window_right, qkv_dim;
  bool bias = false;
  int64_t slack = 0;
  void describe(OptionSet& o) {
    o.add("mode", mode, "which keys a query sees: its block and neighbours, or a sliding window",
          one_of({"block", "sliding"}));
    o.add("as_released", as_released,
          "mode block as the Long Range Arena code does it: every N/block_size-th token makes a "
          "block, an added block of zeros is seen, and the padding mask is misplaced");
    o.add("block_size", block_size, "tokens a block", at_least(1));
    o.add("look_back", look_back, "earlier blocks that a block sees", at_least(0));
    o.add("look_forward", look_forward, "later blocks that a block sees; 0 in a causal model",
          at_least(0));
    o.add("window", window,
          "mode sliding: keys that a causal query sees, itself included; tokens to the left of one "
          "that sees both ways",
          at_least(1));
    o.add("window_right", window_right,
          "mode sliding: tokens to the right of a query that sees both ways; absent = window",
          at_least(0));
    o.add("qkv_dim", qkv_dim, "channels of all heads together; absent = model.width", at_least(1));
    o.add("bias", bias, "biases in the four linear maps");
    o.add("slack", slack, "tokens that a state can forget without replaying", at_least(0));
    o.require(
        "as_released",
        [this] { return !as_released || (mode == "block" && look_back == 0 && look_forward == 0); },
        "the released code knows mode = block without look_back and look_forward only");
  }
};

/// Softmax attention to near keys, O(N·window) time and memory. Mode block: blocks of w tokens see
/// themselves and their neighbours (Tay et al. 2021, arXiv 2011.04006, baseline, appendix B.1);
/// mode sliding: each query sees the tokens around it (Beltagy et al. 2020, arXiv 2004.05150).
/// as_released: token t of the N' = N + w - N mod w padded ones stands in slot t / (N'/w) of block
/// t mod (N'/w), so that a block is dilated, not local, while the padding mask is cut into
/// contiguous blocks.
class Local final : public Mixer {
 public:
  Local(const LocalOptions& options, const Site& site)
      : sizes_(projection_sizes(site, options.qkv_dim, options.bias)),
        position_(site.position),
        causal_(site.causal),
        as_released_(options.as_released),
        slack_(options.slack),
        dropout_(site.attention_dropout),
        maps_(add_module("", std::make_shared<Projections>(site, sizes_))) {
    check(!site.cross, "mixer.kind", "'local' cannot read another sequence; valid: softmax");
    check(!causal_ || options.look_forward == 0, "mixer.look_forward", "found ",
          options.look_forward, ", but a causal model must not see later blocks; valid: 0");
    check(!causal_ || options.window_right.value_or(0) == 0, "mixer.window_right", "found ",
          options.window_right.value_or(0),
          ", but a causal model must not see later tokens; valid: 0 or absent");
    check(!causal_ || !as_released_, "mixer.as_released",
          "the released code mixes future tokens in; valid: false in a causal model");
    band_ = options.mode == "sliding" ? sliding(options) : blocks(options);
  }
  static Traits traits(const LocalOptions& o) {
    const bool forward = o.mode == "sliding" ? o.window_right.value_or(0) > 0 : o.look_forward > 0;
    return {.causal = !forward && !o.as_released,
            .rotary = true,
            .bias = true,
            .qkv_width = o.qkv_dim.value_or(0),
            .equivariant = false};
  }

  Tensor forward(const Tensor& given, Stream& stream, State* state) override {
    if (state) return decode(given, stream, *state);
    if (as_released_) return released(given, stream);
    const Tensor x = hide_invalid(given, stream.valid);
    const Tensor positions = positions_of(stream, x, nullptr);
    const Tensor q = position_->rotate(maps_->query(x), positions);
    const Tensor k = position_->rotate(maps_->key(x), positions);
    const Tensor v = maps_->value(x);
    if (stream.observer) show_pairs(q, k, v, positions, stream);
    return finish(banded_attention(q, k, v, band_, scores(stream.valid, positions)), stream);
  }

  State make_state(int64_t batch, int64_t capacity, at::ScalarType type,
                   const at::Device& device) const override {
    if (!causal_) return Mixer::make_state(batch, capacity, type, device);
    State state(kOwner, Forgetting::ring, batch, -1, slack_);
    const int64_t kept = reach() + 1 + slack_;
    const at::TensorOptions options = at::TensorOptions(type).device(device);
    for (const char* name : {"key", "value"})
      state.tensors[name] = at::zeros({batch, sizes_.heads, kept, sizes_.head_width}, options);
    return state;
  }

 private:
  static constexpr const char* kOwner = "mixer local";
  Band blocks(const LocalOptions& options) const {
    return {options.block_size, options.look_back * options.block_size,
            options.look_forward * options.block_size, false, causal_};
  }

  Band sliding(const LocalOptions& options) const {
    const int64_t back = causal_ ? options.window - 1 : options.window;
    const int64_t ahead = causal_ ? 0 : options.window_right.value_or(options.window);
    // Half a window wastes little of each product and keeps it large.
    constexpr int64_t kSmallest = 16, kLargest = 128;
    const int64_t block = std::clamp((back + ahead + 1) / 2, kSmallest, kLargest);
    return {block, back, ahead, true, causal_};
  }

  /// The farthest a causal query looks back.
  int64_t reach() const { return band_.sliding ? band_.back : band_.back + band_.block - 1; }

  BandedScores scores(const Tensor& valid, const Tensor& positions) const {
    return {valid, positions, position_, training() ? dropout_ : 0.0};
  }

  /// The band as a part of all N² pairs, which the mixer itself never forms.
  void show_pairs(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& positions,
                  const Stream& stream) const {
    stream.show("query", q);
    stream.show("key", k);
    stream.show("value", v);
    if (!wanted(stream, "scores") && !wanted(stream, "attention")) return;
    Scores all;
    all.allowed = open_pairs(band_, q.size(2), q.device());
    if (stream.valid.defined())
      all.allowed = all.allowed.logical_and(stream.valid.unsqueeze(1).unsqueeze(2));
    all.bias = position_->bias(positions, positions, q.scalar_type());
    show_attention(stream, q, k, all);
  }

  /// y [B,H,N,K] → [B,N,D], 0 at padded tokens.
  Tensor finish(const Tensor& y, const Stream& stream) const {
    const Tensor mixed = hide_invalid(maps_->output(y), stream.valid);
    stream.show("output", mixed);
    return mixed;
  }

  Tensor released(const Tensor& x, Stream& stream) const {
    const int64_t n = x.size(1), w = band_.block;
    const int64_t added = w - n % w, count = (n + added) / w;
    const Tensor padded = at::constant_pad_nd(x, {0, 0, 0, added});
    Tensor positions = positions_of(stream, x, nullptr);
    const Tensor after =
        positions.narrow(-1, n - 1, 1) + at::arange(1, added + 1, positions.options());
    positions = at::cat({positions, after}, -1);
    // Token t is in slot t / count of block t mod count: [B,H,N,K] → [B,C,H,W,K].
    const auto blocks = [&](const Tensor& t) {
      return t.unflatten(2, {w, count}).permute({0, 3, 1, 2, 4});
    };
    BlockScores block;
    block.dropout = training() ? dropout_ : 0.0;
    if (stream.valid.defined()) {
      const Tensor open =
          at::constant_pad_nd(stream.valid, {0, added}, true).unflatten(1, {count, w});
      block.allowed = open.unsqueeze(3).logical_and(open.unsqueeze(2)).unsqueeze(2);
    }
    const Tensor places = positions.unflatten(-1, {w, count}).transpose(-1, -2);
    const Tensor rows = places.dim() == 2 ? places.unsqueeze(0) : places;
    block.bias = block_bias(*position_, rows, rows, x.scalar_type());
    const Tensor y = block_attention(blocks(position_->rotate(maps_->query(padded), positions)),
                                     blocks(position_->rotate(maps_->key(padded), positions)),
                                     blocks(maps_->value(padded)), block);
    const Tensor back = y.permute({0, 2, 3, 1, 4}).flatten(2, 3).narrow(2, 0, n);
    const Tensor mixed = maps_->output(back);
    stream.show("output", mixed);
    return mixed;
  }

  Tensor decode(const Tensor& given, Stream& stream, State& state) const {
    check(causal_, kOwner, "a mixer that sees both ways cannot decode with a state");
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
    return finish(y, stream);
  }

  /// One token a row: attention over the ring as it lies.
  Tensor step(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& positions,
              const RingFeed& feed, State& state) const {
    Tensor& keys = state.tensors.at("key");
    Tensor& values = state.tensors.at("value");
    keys = feed.push(keys, k);
    values = feed.push(values, v);
    const Tensor held = feed.held(keys.size(2));  // [B,R]
    const Tensor at_token = feed.places();        // [B,1]
    const Tensor first = band_.sliding
                             ? at_token - band_.back
                             : at_token.floor_divide(band_.block) * band_.block - band_.back;
    Scores scores;
    scores.allowed = (held >= first.clamp_min(0)).unsqueeze(1).unsqueeze(2);
    // A bias reads where tokens stand in their rows, which is what the ring knows.
    const Tensor query = positions.dim() == 2 ? positions : positions.expand({q.size(0), 1});
    scores.bias = position_->bias(query, held.clamp_min(0), q.scalar_type());
    return attend(q, keys, values, scores);
  }

  Tensor prefill(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& positions,
                 const RingFeed& feed, State& state) const {
    Tensor& keys = state.tensors.at("key");
    Tensor& values = state.tensors.at("value");
    Tensor y;
    if (feed.fresh()) {
      y = banded_attention(q, k, v, band_, scores({}, positions));
    } else {
      // The keys that may still be seen and the new tokens, each row from a border of blocks on.
      const RingWindow window = feed.window(keys.size(2), reach(), band_.sliding ? 1 : band_.block);
      const BandedScores banded = scores({}, window.positions);
      y = window.take(banded_attention(window.queries(q), window.join(keys, k),
                                       window.join(values, v), band_, banded));
    }
    keys = feed.push(keys, k);
    values = feed.push(values, v);
    return y;
  }

  ProjectionSizes sizes_;
  std::shared_ptr<Position> position_;
  bool causal_, as_released_;
  int64_t slack_;
  double dropout_;
  std::shared_ptr<Projections> maps_;
  Band band_;
};

const Register<Mixer, Local, LocalOptions> local{"local", "softmax attention to near tokens",
                                                 cite("2011.04006"),
                                                 specified_by("local_attention")};

}  // namespace
}  // namespace formwork

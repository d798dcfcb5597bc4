#include <c10/core/DispatchKeySet.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "methods/mixer/attention.h"
#include "methods/mixer/mixer.h"
#include "methods/mixer/offset_bias.h"
#include "methods/mixer/projections.h"
#include "methods/mixer/random_features.h"
#include "methods/mixer/toeplitz_products.h"
#include "methods/mixer/token_cache.h"
#include "methods/selective_observer.h"

namespace formwork {
namespace {

/// Rows that a causal pass by FFT computes directly: rounding is absolute and their sums are short.
constexpr int64_t kFirstRows = 64;
/// Tokens that a recurrent state takes up at once, and distances of a table for unknown lengths.
constexpr int64_t kBlock = 128, kUnknownLength = 128;
/// Of the estimate where both forms cost the same.
constexpr double kCrossover = 10.0;

struct KernelRpeOptions {
  std::string feature_map = "prf";
  std::optional<int64_t> features;
  bool normalize_qk = true;
  bool orthogonal = true;
  int64_t redraw_interval = 0;
  std::string bias = "table";
  std::optional<int64_t> max_distance;
  std::string algorithm = "auto";
  std::string fft_dtype = "float32";
  double eps = 1e-12;
  bool projection_bias = true;
  std::optional<int64_t> kv_heads, qkv_dim;
  void describe(OptionSet& o) {
    o.add("feature_map", feature_map,
          "phi: positive or trigonometric random features of exp(q·k), elu + 1 or relu",
          one_of({"prf", "trf", "elu", "relu"}));
    o.add("features", features, "random directions of prf and trf; absent = the channels of a head",
          at_least(1));
    o.add("normalize_qk", normalize_qk,
          "queries and keys of length 1, without which the features vary without bound; false: "
          "times (head width)^(-1/4)");
    o.add("orthogonal", orthogonal, "directions orthogonal in blocks, which vary less");
    o.add("redraw_interval", redraw_interval, "steps between new random directions; 0 = never",
          at_least(0));
    o.add("bias", bias,
          "relative positions: a trained number for each offset, for each of T5's 32 buckets, a "
          "trained exponential decay (which decodes in constant memory), or none",
          one_of({"table", "t5_bucket", "exponential", "none"}));
    o.add("max_distance", max_distance,
          "offsets of the table on each side, 0 included; farther ones share the last; absent = "
          "the task's length, or 128 where it has none",
          at_least(1));
    o.add("algorithm", algorithm, "all pairs, or convolutions by FFT; auto = the faster by length",
          one_of({"auto", "direct", "fft"}));
    o.add("fft_dtype", fft_dtype, "type of the FFT, widened to the model's where that is wider",
          one_of({"float32", "float64"}));
    o.add("eps", eps, "shortest length that normalize_qk divides by", above(0));
    o.add("projection_bias", projection_bias, "biases in the four linear maps");
    o.add("kv_heads", kv_heads,
          "heads of keys and values, shared by equal groups of query heads; absent = model.heads",
          at_least(1));
    o.add("qkv_dim", qkv_dim, "channels of all heads together; absent = model.width", at_least(1));
  }
};

/// sums [B,H,N,V+1] of weighted values and of weights → [B,H,N,V]; 0 where there is no weight.
Tensor divide(const Tensor& sums) {
  const int64_t width = sums.size(3) - 1;
  const Tensor below = sums.narrow(3, width, 1);
  const Tensor nothing = below == 0;
  return (sums.narrow(3, 0, width) / below.masked_fill(nothing, 1)).masked_fill(nothing, 0);
}

/// Kernelised attention with relative positions: y_i = sum_j c_{j-i} (phi(q_i)·phi(k_j)) v_j /
/// sum_j c_{j-i} phi(q_i)·phi(k_j), c_r = exp(b_r) trained for each head and offset. All pairs in
/// tiles, O(N²) time, or by FFT, O(N log N); both O(N) memory. A query that sees no key gives 0.
/// Offsets are places in the sequence. By FFT a causal model's outputs depend on later tokens by
/// rounding only (its first 64 rows not at all). Luo et al. 2021, arXiv 2106.12566. Ours:
/// exponential and absent biases decode with sums of fixed size; the queries' features are scaled
/// to a largest of 1, which cancels.
class KernelRpe final : public Mixer {
 public:
  KernelRpe(const KernelRpeOptions& options, const Site& site)
      : options_(options),
        sizes_(projection_sizes(site, options.qkv_dim, options.projection_bias, options.kv_heads)),
        causal_(site.causal),
        maps_(add_module("", std::make_shared<Projections>(site, sizes_))),
        features_(add_module("features",
                             std::make_shared<RandomFeatures>(
                                 RandomFeatureOptions{options.feature_map,
                                                      options.features.value_or(sizes_.head_width),
                                                      options.orthogonal, options.redraw_interval},
                                 sizes_.head_width, site.random.child("features")))) {
    check(!site.cross, "mixer.kind", "'kernel_rpe' cannot read another sequence; valid: softmax");
    check(site.attention_dropout == 0.0, "model.attention_dropout", "found ",
          site.attention_dropout,
          ", but model.mixer.kind = 'kernel_rpe' never forms the weights to drop; valid: 0");
    const int64_t known = site.length > 0 ? site.length : kUnknownLength;
    bias_ = add_module(
        "", std::make_shared<OffsetBias>(
                OffsetBiasOptions{options.bias, options.max_distance.value_or(known), causal_},
                sizes_.heads));
  }
  static Traits traits(const KernelRpeOptions& o) {
    return {.qkv_width = o.qkv_dim.value_or(0), .equivariant = o.bias == "none"};
  }

  Tensor forward(const Tensor& x, Stream& stream, State* state) override {
    if (!state) return finish(mix(parts_of(x, stream, nullptr), stream.valid), x, stream);
    check(causal_, kOwner, "a mixer that sees both ways cannot decode with a state");
    state->accept(x, stream.valid);
    const c10::NoGradGuard no_grad;
    const Parts parts = parts_of(x, stream, state);
    const Tensor y = bias_->recurrent() ? recur(parts, stream.valid, *state)
                                        : read_cache(parts, stream.valid, *state);
    return hide_invalid(finish(y, x, stream), stream.valid);
  }

  State make_state(int64_t batch, int64_t capacity, at::ScalarType type,
                   const at::Device& device) const override {
    if (!causal_) return Mixer::make_state(batch, capacity, type, device);
    if (!bias_->recurrent())
      return make_token_cache(kOwner, {"key", "value"}, {features_->count(), sizes_.head_width},
                              sizes_.kv_heads, batch, capacity,
                              at::TensorOptions(type).device(device));
    State state(kOwner, Forgetting::snapshot, batch, -1);
    state.tensors["sum"] =
        at::zeros({batch, sizes_.heads, features_->count(), sizes_.head_width + 1},
                  at::TensorOptions(at::promote_types(type, at::kFloat)).device(device));
    return state;
  }

 private:
  static constexpr const char* kOwner = "mixer kernel_rpe";
  /// Features [B,H,N,M], [B,Hkv,N,M] and values with a 1 behind them [B,Hkv,N,K+1], those of padded
  /// tokens 0; in float32 or wider.
  struct Parts {
    Tensor q, k, v;
  };

  Tensor unit(const Tensor& x) const {
    if (options_.normalize_qk) return x / x.norm(2, {-1}, true).clamp_min(options_.eps);
    return x * std::pow(static_cast<double>(sizes_.head_width), -0.25);
  }

  Parts parts_of(const Tensor& x, const Stream& stream, const State* state) const {
    Tensor q = maps_->query(x), k = maps_->key(x), v = maps_->value(x);
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    at::ScalarType type = at::promote_types(x.scalar_type(), at::kFloat);
    if (state && bias_->recurrent())
      type = at::promote_types(type, state->tensors.at("sum").scalar_type());
    q = features_->queries(unit(q.to(type)));
    k = features_->keys(unit(k.to(type)));
    v = v.to(type);
    v = at::cat({v, at::ones_like(v.narrow(3, 0, 1))}, 3);
    if (stream.valid.defined()) {
      const Tensor padded = stream.valid.logical_not().unsqueeze(1).unsqueeze(-1);
      k = k.masked_fill(padded, 0);
      // A token that does not count must not spoil the sums even where it is infinite.
      v = v.masked_fill(padded, 0);
    }
    if (stream.observer) {
      stream.show("query", q);
      stream.show("key", k);
      stream.show("value", v.narrow(3, 0, sizes_.head_width));
      if (!state && wanted(stream, "attention"))
        stream.show("attention", weights(q.detach(), k.detach()));
    }
    return {q, k, v};
  }

  /// [B,Hkv,...] → [B,H,...].
  Tensor for_queries(const Tensor& x) const {
    const int64_t groups = sizes_.heads / sizes_.kv_heads;
    return groups == 1 ? x : x.repeat_interleave(groups, 1);
  }

  /// What the values are weighted with [B,H,N,N], which the mixer itself never forms.
  Tensor weights(const Tensor& q, const Tensor& k) const {
    const c10::NoGradGuard no_grad;
    const int64_t n = q.size(2);
    const Tensor factors = bias_->factors(n, q.scalar_type()).unfold(1, n, 1).flip(1);
    const Tensor pairs = at::matmul(q, for_queries(k).transpose(-2, -1)) * factors;
    const Tensor sum = pairs.sum(-1, true);
    return pairs / sum.masked_fill(sum == 0, 1);
  }

  bool by_fft(int64_t n) const {
    if (options_.algorithm != "auto") return options_.algorithm == "fft";
    // Operations of both forms are equal at N = 10 M K log2(2N) / (M + K).
    const double m = static_cast<double>(features_->count()), length = static_cast<double>(n);
    const double width = static_cast<double>(sizes_.head_width);
    return length > kCrossover * m * width * std::log2(2.0 * length) / (m + width);
  }

  /// → [B,H,N,K].
  Tensor mix(const Parts& parts, const Tensor& valid) const {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const int64_t n = parts.q.size(2);
    const ToeplitzProducts all{parts.q, for_queries(parts.k), for_queries(parts.v),
                               bias_->factors(n, parts.q.scalar_type()), causal_};
    const bool fft = by_fft(n) && (!causal_ || n > kFirstRows);
    return divide(fft ? sums_by_fft(all, valid) : toeplitz_products_direct(all));
  }

  Tensor sums_by_fft(const ToeplitzProducts& all, const Tensor& valid) const {
    const auto type = all.q.scalar_type();
    const auto wide = options_.fft_dtype == "float64" ? at::promote_types(type, at::kDouble) : type;
    const int64_t n = all.q.size(2), width = sizes_.head_width;
    Tensor sums = toeplitz_products_fft(
        {all.q.to(wide), all.k.to(wide), all.v.to(wide), all.factors.to(wide), causal_});
    if (features_->positive()) {
      // A sum of positive terms must not be rounded below its own token's.
      const Tensor own =
          all.factors.narrow(1, n - 1, 1).unsqueeze(2) * (all.q * all.k).sum(-1, true);
      const Tensor below = at::max(sums.narrow(3, width, 1), own.to(wide) * 1e-6);
      sums = at::cat({sums.narrow(3, 0, width), below}, 3);
    }
    if (valid.defined()) {
      const Tensor seen = causal_ ? valid.cumsum(1) > 0 : valid.any(1, true);
      sums = sums.masked_fill(seen.logical_not().unsqueeze(1).unsqueeze(-1), 0);
    }
    sums = sums.to(type);
    if (!causal_) return sums;
    const auto first = [](const Tensor& x) { return x.narrow(2, 0, kFirstRows); };
    const Tensor head =
        toeplitz_products_direct({first(all.q), first(all.k), first(all.v),
                                  all.factors.narrow(1, n - kFirstRows, 2 * kFirstRows - 1), true});
    return at::cat({head, sums.narrow(2, kFirstRows, n - kFirstRows)}, 2);
  }

  /// A prompt at once, later tokens against the features and values kept.
  Tensor read_cache(const Parts& parts, const Tensor& valid, State& state) const {
    const bool fresh = state.common_length() == 0 && all_valid(valid);
    const CacheView view = keep_tokens(
        state, {{"key", parts.k}, {"value", parts.v.narrow(3, 0, sizes_.head_width)}}, valid);
    if (fresh) return mix(parts, {});
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const auto type = parts.q.scalar_type();
    const auto kept = [&](const char* name) {
      return for_queries(state.tensors.at(name).narrow(2, 0, view.total).to(type));
    };
    const Tensor apart =
        at::arange(view.total, view.places.options()) - view.places.unsqueeze(-1);  // [.,n,total]
    constexpr double kClosed = -std::numeric_limits<double>::infinity();
    const Tensor b = bias_->of(apart.clamp_max(0), type)
                         .transpose(0, 1)
                         .masked_fill((apart > 0).unsqueeze(1), kClosed);
    const Tensor pairs =
        at::matmul(parts.q, kept("key").transpose(-2, -1)) * (b - b.amax(-1, true)).exp();
    return divide(at::cat({at::matmul(pairs, kept("value")), pairs.sum(-1, true)}, 3));
  }

  /// The sums of all tokens so far, each times exp(-rate distance to the last).
  Tensor recur(const Parts& parts, const Tensor& valid, State& state) const {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const auto type = parts.q.scalar_type();
    const int64_t batch = parts.q.size(0), n = parts.q.size(2);
    const Tensor k = for_queries(parts.k), v = for_queries(parts.v);
    const Tensor rate = bias_->rate(type).to(k.device()).view({1, sizes_.heads, 1, 1});
    Tensor sum = state.tensors.at("sum");
    std::vector<Tensor> outputs;
    for (int64_t from = 0; from < n; from += kBlock) {
      const int64_t count = std::min(kBlock, n - from);
      const Tensor real = valid.defined() ? valid.narrow(1, from, count).to(type)
                                          : at::ones({batch, count}, k.options());
      const Tensor rank = (real.cumsum(1) - real).unsqueeze(1).unsqueeze(-1);  // [B,1,n,1]
      const Tensor fed = real.sum(1).view({batch, 1, 1, 1});
      const Tensor q_now = parts.q.narrow(2, from, count), k_now = k.narrow(2, from, count);
      const Tensor v_now = v.narrow(2, from, count);
      const Tensor apart = (rank - rank.transpose(-2, -1)).clamp_min(0);
      const Tensor inside =
          (at::matmul(q_now, k_now.transpose(-2, -1)) * (-rate * apart).exp()).tril();
      outputs.push_back(at::matmul(inside, v_now) +
                        at::matmul(q_now, sum) * (-rate * (rank + 1)).exp());
      const Tensor faded = k_now * (-rate * (fed - 1 - rank).clamp_min(0)).exp();
      sum = (-rate * fed).exp() * sum + at::matmul(faded.transpose(-2, -1), v_now);
    }
    state.tensors["sum"] = sum;
    state.advance(n, valid);
    return divide(at::cat(outputs, 2));
  }

  Tensor finish(const Tensor& y, const Tensor& x, const Stream& stream) const {
    const Tensor mixed = maps_->output(y.to(x.scalar_type()));
    stream.show("output", mixed);
    return mixed;
  }

  KernelRpeOptions options_;
  ProjectionSizes sizes_;
  bool causal_;
  std::shared_ptr<Projections> maps_;
  std::shared_ptr<RandomFeatures> features_;
  std::shared_ptr<OffsetBias> bias_;
};

const Register<Mixer, KernelRpe, KernelRpeOptions> kernel_rpe{
    "kernel_rpe", "attention by random features with relative positions, O(N log N) by FFT",
    cite("2106.12566"), specified_by("kernel_rpe_fft")};

}  // namespace
}  // namespace formwork

#include <c10/core/DispatchKeySet.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <cmath>

#include "methods/mixer/linear_attention.h"
#include "methods/mixer/mixer.h"
#include "methods/mixer/projections.h"

namespace formwork {
namespace {

struct SlabOptions {
  std::vector<int64_t> grid;
  int64_t kernel_size = 5;
  int64_t n_prefix = 0;
  bool pos = true;
  double eps = 1e-6;
  int64_t chunk = 64;
  bool bias = true;
  void describe(OptionSet& o) {
    o.add("grid", grid,
          "rows and columns of the tokens, for the convolution over an image; empty = one row of "
          "any length, as for text",
          at_least(1));
    o.add("kernel_size", kernel_size, "extent of the convolution over the values; odd; causal: 1",
          at_least(1));
    o.add("n_prefix", n_prefix,
          "tokens before the grid (class tokens), which pass the convolution by", at_least(0));
    o.add("pos", pos, "a trained vector for each place is added to the keys");
    o.add("eps", eps, "added to the sum of weights", above(0));
    o.add("chunk", chunk, "tokens that a causal pass multiplies at once; speed only", at_least(1));
    o.add("bias", bias, "biases in the four linear maps");
    o.require(
        "kernel_size", [this] { return kernel_size % 2 == 1; }, "valid: an odd number");
    o.require(
        "grid", [this] { return grid.empty() || grid.size() == 2; },
        "valid: two numbers, rows and columns, or none");
  }
};

/// Simplified linear attention: y_i = sum_j (q_i·k_j) v_j / (q_i·sum_j k_j + eps) with q = relu(x
/// Wq), k = relu(x Wk + P), P trained for each place, no scale; to each head's output a depth-wise
/// convolution of its values is added, the same kernel [K,1,ks,ks] for all heads, over the grid of
/// tokens row by row. Computed in float32 even in mixed precision. The products are taken in the
/// cheaper order: k^T v first where N > K.
/// Beyond the authors' program: padded tokens (keys and values 0), a grid of one row (kernel
/// [K,1,1,ks]), causal sums, for which kernel_size must be 1. Guo et al. 2024, arXiv 2405.11582.
class Slab final : public Mixer {
 public:
  Slab(const SlabOptions& options, const Site& site)
      : options_(options),
        sizes_(projection_sizes(site, std::nullopt, options.bias)),
        causal_(site.causal),
        maps_(add_module("", std::make_shared<Projections>(site, sizes_))) {
    check(!site.cross, "mixer.kind", "'slab' cannot read another sequence; valid: softmax");
    check(!causal_ || options.kernel_size == 1, "mixer.slab.kernel_size", "found ",
          options.kernel_size, ", which sees later tokens of a causal model; valid: 1");
    const int64_t length = options.grid.empty() ? site.length : whole_length();
    check(options.grid.empty() || site.length == 0 || site.length == length, "mixer.slab.grid",
          "found ", grid_text(), " and ", options.n_prefix, " tokens before it, but there are ",
          site.length, " tokens; valid: rows x columns + n_prefix = ", site.length);
    if (options.pos) {
      check(length > 0, "mixer.slab.pos",
            "true, but the number of tokens is not known; valid: false, or a grid");
      places_ =
          add_parameter("positional_encoding", at::zeros({1, length, site.width}), Role::position);
    }
    const int64_t rows = options.grid.empty() ? 1 : options.kernel_size;
    const double bound = 1.0 / std::sqrt(static_cast<double>(rows * options.kernel_size));
    // PyTorch's default start of a convolution.
    const RandomStream random = site.random.child("dwc");
    kernel_ = add_parameter("dwc.weight",
                            uniform_tensor({sizes_.head_width, 1, rows, options.kernel_size},
                                           -bound, bound, random.child("weight")),
                            Role::other);
    shift_ = add_parameter("dwc.bias",
                           uniform_tensor({sizes_.head_width}, -bound, bound, random.child("bias")),
                           Role::bias);
  }
  static Traits traits(const SlabOptions& o) {
    return {.causal = o.kernel_size == 1,
            .fixed_length = o.pos && o.grid.empty(),
            .equivariant = !o.pos && o.kernel_size == 1};
  }

  bool steady() const override { return false; }  // checks the positions
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
    const auto kind = at::TensorOptions(at::promote_types(type, at::kFloat)).device(device);
    const int64_t heads = sizes_.heads, width = sizes_.head_width;
    state.tensors["sum"] = at::zeros({batch, heads, width, width}, kind);
    state.tensors["norm"] = at::zeros({batch, heads, width}, kind);
    return state;
  }

 private:
  static constexpr const char* kOwner = "mixer slab";
  int64_t whole_length() const { return options_.grid[0] * options_.grid[1] + options_.n_prefix; }
  std::string grid_text() const {
    return options_.grid.empty() ? "one row" : join_text(options_.grid[0], " x ", options_.grid[1]);
  }

  /// What is added to the keys, [B or 1,H,N,K].
  Tensor place_keys(const Tensor& x, const Stream& stream, const State* state) const {
    const int64_t n = x.size(1), known = places_.size(1);
    Tensor rows;
    if (causal_) {
      const Tensor positions = positions_of(stream, x, state);
      check(positions.numel() == 0 || positions.max().item<int64_t>() < known, "mixer.slab.pos",
            "found a token after the ", known,
            " places that the model was built for; valid: false");
      rows = places_[0].index({positions});
      if (rows.dim() == 2) rows = rows.unsqueeze(0);
    } else {
      check(n <= known, "mixer.slab.pos", "found ", n, " tokens, but the model was built for ",
            known, " places");
      rows = places_.narrow(1, 0, n);
    }
    return rows.unflatten(2, {sizes_.heads, sizes_.head_width}).transpose(1, 2);
  }

  /// → [B,H,N,K], in float32 or wider.
  Tensor mix(const Tensor& x, Stream& stream, State* state) const {
    Tensor q = maps_->query(x), k = maps_->key(x), v = maps_->value(x);
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    at::ScalarType type = at::promote_types(x.scalar_type(), at::kFloat);
    if (state) type = at::promote_types(type, state->tensors.at("sum").scalar_type());
    k = k.to(type);
    if (options_.pos) k = k + place_keys(x, stream, state);
    LinearAttention all;
    all.q = q.to(type).relu();
    all.k = k.relu();
    all.v = v.to(type);
    all.eps = options_.eps;
    if (stream.valid.defined()) {
      const Tensor padded = stream.valid.logical_not().unsqueeze(1).unsqueeze(-1);
      all.k = all.k.masked_fill(padded, 0);
      all.v = all.v.masked_fill(padded, 0);
    }
    all.q_norm = all.q;
    all.k_norm = all.k;
    if (stream.observer) {
      stream.show("query", all.q);
      stream.show("key", all.k);
      stream.show("value", all.v);
    }
    return attend(all, state) + convolve(all.v);
  }

  Tensor attend(const LinearAttention& all, State* state) const {
    if (!causal_) return all.q.size(2) > sizes_.head_width ? linear_attention(all) : by_pairs(all);
    if (!state) return causal_linear_attention(all, options_.chunk, nullptr);
    LinearSums sums{state->tensors.at("sum"), state->tensors.at("norm")};
    const Tensor y = all.q.size(2) == 1 ? linear_attention_step(all, sums)
                                        : causal_linear_attention(all, options_.chunk, &sums);
    state->tensors["sum"] = sums.sum;
    state->tensors["norm"] = sums.norm;
    return y;
  }

  static Tensor by_pairs(const LinearAttention& all) {
    const Tensor weights = at::matmul(all.q, all.k.transpose(-2, -1));
    return at::matmul(weights, all.v) / (weights.sum(-1, true) + all.eps);
  }

  /// The convolution of v [B,H,N,K] over the grid; 0 for the tokens before it.
  Tensor convolve(const Tensor& v) const {
    const int64_t batch = v.size(0), heads = v.size(1), n = v.size(2), width = v.size(3);
    if (!options_.grid.empty())
      check(n == whole_length(), "mixer.slab.grid", "found ", n, " tokens, but a grid of ",
            grid_text(), " and ", options_.n_prefix, " tokens before it; valid: ", whole_length(),
            " (for class tokens set n_prefix)");
    const int64_t before = std::min(options_.n_prefix, n), inside = n - before;
    const int64_t rows = options_.grid.empty() ? 1 : options_.grid[0];
    if (inside == 0) return at::zeros_like(v);
    const Tensor image = v.narrow(2, before, inside)
                             .transpose(2, 3)
                             .reshape({batch * heads, width, rows, inside / rows});
    const int64_t half = options_.kernel_size / 2;
    const Tensor sums = at::conv2d(image, kernel_.to(v.scalar_type()), shift_.to(v.scalar_type()),
                                   {1, 1}, {kernel_.size(2) / 2, half}, {1, 1}, width);
    const Tensor out = sums.reshape({batch, heads, width, inside}).transpose(2, 3);
    return before == 0 ? out : at::constant_pad_nd(out, {0, 0, before, 0});
  }

  Tensor finish(const Tensor& y, const Tensor& x, const Stream& stream) const {
    const Tensor mixed = maps_->output(y.to(x.scalar_type()));
    stream.show("output", mixed);
    return mixed;
  }

  SlabOptions options_;
  ProjectionSizes sizes_;
  bool causal_;
  std::shared_ptr<Projections> maps_;
  Tensor places_, kernel_, shift_;
};

const Register<Mixer, Slab, SlabOptions> slab{
    "slab", "simplified linear attention: relu features and a depth-wise convolution",
    cite("2405.11582"), specified_by("slab")};

}  // namespace
}  // namespace formwork

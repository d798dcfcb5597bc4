#include <c10/core/DispatchKeySet.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <cmath>

#include "methods/mixer/mixer.h"
#include "methods/mixer/projections.h"
#include "methods/mixer/soft_inverse.h"

namespace formwork {
namespace {

struct SoftOptions {
  std::string variant = "soft";
  std::vector<int64_t> grid;
  int64_t ratio = 4;
  std::string pooling = "conv";
  bool pool_norm = true;
  int64_t conv_size = 3;
  int64_t max_iter = 20;
  std::optional<double> ridge;
  std::string inverse = "newton";
  std::string inverse_grad = "closed";
  std::string alpha_scope = "matrix";
  double ln_eps = 1e-5;
  bool bias = true;
  void describe(OptionSet& o) {
    o.add("variant", variant, "soft_norm: the inverse is scaled by its matrix's row sums",
          one_of({"soft", "soft_norm"}));
    o.add("grid", grid,
          "rows and columns of the tokens of an image; empty = one row of any length, as for text",
          at_least(1));
    o.add(
        "ratio", ratio,
        "side of the squares (length of the pieces of a row) that one landmark stands for; 1 = no "
        "landmarks, every token attends to every token",
        at_least(1));
    o.add("pooling", pooling, "landmarks: a trained convolution, the mean, or the first token",
          one_of({"conv", "avg", "stride"}));
    o.add("pool_norm", pool_norm, "a layer norm and a GELU after the pooling");
    o.add("conv_size", conv_size,
          "extent of the depth-wise convolution over the values that is added; odd, 0 = none",
          at_least(0));
    o.add("max_iter", max_iter, "steps of Newton's iteration for the inverse", at_least(1));
    o.add("ridge", ridge,
          "added to the diagonal before inverting; default: 0.01 for soft, 0 for soft_norm",
          at_least(0));
    o.add("inverse", inverse,
          "newton: by matrix products, for GPUs; cholesky: exact and many times cheaper on a CPU",
          one_of({"newton", "cholesky"}));
    o.add("inverse_grad", inverse_grad, "closed: the derivative of the exact inverse",
          one_of({"closed", "autograd"}));
    o.add(
        "alpha_scope", alpha_scope,
        "where Newton's iteration takes its bound from; batch: as in the authors' program, outputs "
        "then depend on the rest of the batch until it has converged",
        one_of({"matrix", "batch"}));
    o.add("ln_eps", ln_eps, "eps of pool_norm", above(0));
    o.add("bias", bias, "biases in the three linear maps");
    o.require(
        "conv_size", [this] { return conv_size == 0 || conv_size % 2 == 1; },
        "valid: an odd number, or 0 for none");
    o.require(
        "grid", [this] { return grid.empty() || grid.size() == 2; },
        "valid: two numbers, rows and columns, or none");
    o.require(
        "ratio",
        [this] { return grid.size() != 2 || (grid[0] % ratio == 0 && grid[1] % ratio == 0); },
        "valid: a common divisor of mixer.grid's rows and columns");
  }
};

/// exp(-|a_i - b_j|²/2): a [B,H,N,K], b [B,H,m,K] → [B,H,N,m].
Tensor gaussian(const Tensor& a, const Tensor& b) {
  const Tensor squares = 0.5 * (a.square().sum(-1, true) + b.square().sum(-1).unsqueeze(-2));
  // Rounding can make the square of a small distance negative.
  return (at::matmul(a, b.transpose(-2, -1)) - squares).clamp_max(0).exp();
}

/// gaussian(a, a), its diagonal 1 whatever rounding does; 0 off the diagonal where `missing`
/// [B or 1,m] (or undefined) says that there is no vector.
Tensor own_gaussian(const Tensor& a, const Tensor& missing) {
  Tensor kernel = gaussian(a, a);
  if (missing.defined()) {
    const Tensor rows = missing.unsqueeze(1).unsqueeze(-1);
    kernel = kernel.masked_fill(rows.logical_or(rows.transpose(-2, -1)), 0);
  }
  return kernel.masked_fill(at::eye(a.size(-2), a.options().dtype(at::kBool)), 1);
}

/// Vectors that stand for the tokens.
struct Landmarks {
  Tensor q;        // [B,H,m,K]
  Tensor missing;  // [B or 1,m], true where a landmark has no token; undefined = none
};

/// Softmax-free attention, O(N m) for m landmarks: keys are the queries, q = (x Wq + b) / K^(1/4);
/// the landmarks u = GELU(LN(pool(q))) [m,K] pool each square of ratio x ratio tokens; with
/// K1 = exp(-|q - u|²/2) [N,m] and K2 = exp(-|u - u|²/2) [m,m]
///   y = K1 (K2 + ridge I)⁻¹ (K1ᵀ v)              soft
///   y = K1 S (K2 + ridge I)⁻¹ S (K1ᵀ v)          soft_norm, S = diag(K2 1)^(-1/2)
/// to which a depth-wise convolution of the values over the grid is added, one kernel a head for
/// all its channels. Computed in float32 even in mixed precision. Ratio 1: y = exp(-|q - q|²/2) v.
/// Lu et al. 2021, arXiv 2110.11945; Lu et al. 2024 (soft_norm), arXiv 2207.03341.
/// Beyond the authors' program: without a grid tokens are one row of any length, in which padded
/// tokens count for nothing; Newton's iteration starts at 1.8 / r² for soft_norm too, because from
/// the published 2 / r² it fails where all rows of K2 sum to r, as those of two landmarks always
/// do; alpha_scope batch keeps the published start.
class Soft final : public Mixer {
 public:
  Soft(const SoftOptions& options, const Site& site)
      : options_(options),
        sizes_(projection_sizes(site, std::nullopt, options.bias)),
        normalised_(options.variant == "soft_norm"),
        ridge_(options.ridge.value_or(normalised_ ? 0.0 : 0.01)),
        gradient_(options.inverse_grad == "closed" ? InverseGradient::closed
                                                   : InverseGradient::autograd) {
    check(!site.causal, "mixer.kind",
          "'soft' sees the future and cannot be made causal; valid in a causal model: softmax");
    check(!site.cross, "mixer.kind", "'soft' cannot read another sequence; valid: softmax");
    check(options.grid.empty() || site.length == 0 || site.length == whole_length(),
          "mixer.soft.grid", "found ", grid_text(), ", but there are ", site.length,
          " tokens; valid: rows x columns = ", site.length);
    const auto map = [&](const char* name, Role role) {
      return add_module(name, site.linear(name, site.width, site.width, role, options.bias));
    };
    q_proj_ = map("q_proj", Role::query);
    v_proj_ = map("v_proj", Role::value);
    out_proj_ = map("out_proj", Role::output);
    if (options.ratio > 1) make_pooling(site.random);
    if (options.conv_size > 0) {
      const int64_t side = options.conv_size;
      skip_ = convolution("conv_skip.weight", {sizes_.heads, 1, across(side), side},
                          site.random.child("conv_skip"));
    }
  }
  static Traits traits(const SoftOptions& o) {
    return {.causal = false, .equivariant = o.ratio == 1 && o.conv_size == 0};
  }

  bool steady() const override { return false; }  // stops where an inverse is near
  Tensor forward(const Tensor& x, Stream& stream, State* state) override {
    check(!state, kOwner, "a mixer that sees both ways cannot decode with a state");
    const Tensor mixed = mix(x, stream).transpose(1, 2).flatten(2).to(x.scalar_type());
    const Tensor y = out_proj_->forward(mixed);
    stream.show("output", y);
    return y;
  }

 private:
  static constexpr const char* kOwner = "mixer soft";
  int64_t whole_length() const { return options_.grid[0] * options_.grid[1]; }
  std::string grid_text() const {
    return options_.grid.empty()
               ? "one row"
               : join_text("a grid of ", options_.grid[0], " x ", options_.grid[1]);
  }
  /// The extent of a convolution over the rows of the grid; 1 where there is one row.
  int64_t across(int64_t along) const { return options_.grid.empty() ? 1 : along; }

  void make_pooling(const RandomStream& random) {
    const int64_t width = sizes_.head_width, side = options_.ratio;
    if (options_.pooling == "conv")
      pool_ = convolution("pool.weight", {width, width, across(side), side}, random.child("pool"));
    if (!options_.pool_norm) return;
    pool_gain_ = add_parameter("pool_norm.weight", at::ones({width}), Role::norm);
    pool_shift_ = add_parameter("pool_norm.bias", at::zeros({width}), Role::bias);
  }

  /// A kernel [out, in, rows, columns] that starts as PyTorch's convolutions do.
  Tensor convolution(const char* name, const std::vector<int64_t>& shape,
                     const RandomStream& random) {
    const double bound = 1.0 / std::sqrt(static_cast<double>(shape[1] * shape[2] * shape[3]));
    return add_parameter(name, uniform_tensor(shape, -bound, bound, random), Role::other);
  }

  Tensor split(const Tensor& x) const {
    return x.view({x.size(0), x.size(1), sizes_.heads, sizes_.head_width}).transpose(1, 2);
  }

  /// → [B,H,N,K], in float32 or wider.
  Tensor mix(const Tensor& x, const Stream& stream) const {
    check_tokens(x.size(1), stream.valid);
    const Tensor valid = options_.grid.empty() ? stream.valid : Tensor();
    Tensor q = split(q_proj_->forward(x)), v = split(v_proj_->forward(x));
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const at::ScalarType type = at::promote_types(x.scalar_type(), at::kFloat);
    q = q.to(type) * std::pow(static_cast<double>(sizes_.head_width), -0.25);
    v = v.to(type);
    if (valid.defined()) {
      const Tensor padded = valid.logical_not().unsqueeze(1).unsqueeze(-1);
      q = q.masked_fill(padded, 0);
      v = v.masked_fill(padded, 0);
    }
    stream.show("query", q);
    stream.show("value", v);
    const Tensor mixed = options_.ratio == 1 ? at::matmul(own_gaussian(q, Tensor()), v)
                                             : through_landmarks(q, v, valid, stream);
    return skip_.defined() ? mixed + convolve(v) : mixed;
  }

  void check_tokens(int64_t n, const Tensor& valid) const {
    if (options_.grid.empty()) return;
    check(n == whole_length(), "mixer.soft.grid", "found ", n, " tokens, but ", grid_text(),
          "; valid: ", whole_length(), ", without a class token");
    check(!valid.defined() || valid.all().item<bool>(), "mixer.soft.grid",
          "found padded tokens in ", grid_text(),
          "; valid: no grid, for sequences that are padded");
  }

  Tensor through_landmarks(const Tensor& q, const Tensor& v, const Tensor& valid,
                           const Stream& stream) const {
    const Landmarks landmarks = pool(q, valid);
    Tensor kernel = gaussian(q, landmarks.q);
    if (landmarks.missing.defined())
      kernel = kernel.masked_fill(landmarks.missing.unsqueeze(1).unsqueeze(1), 0);
    const Tensor within = own_gaussian(landmarks.q, landmarks.missing);
    stream.show("kernel_bottleneck", within);
    const Tensor sums = at::matmul(kernel.transpose(-2, -1), v);
    if (!normalised_) return at::matmul(kernel, inverse_times(within, sums, stream));
    const Tensor scale = within.sum(-1, true).rsqrt();
    return at::matmul(kernel, scale * inverse_times(within, scale * sums, stream));
  }

  /// (K2 + ridge I)⁻¹ t.
  Tensor inverse_times(const Tensor& within, const Tensor& t, const Stream& stream) const {
    const Tensor p =
        ridge_ > 0 ? within + ridge_ * at::eye(within.size(-1), within.options()) : within;
    if (options_.inverse == "cholesky") return cholesky_inverse_times(p, t, gradient_);
    const bool batch = options_.alpha_scope == "batch";
    const Tensor start =
        normalised_ && batch ? released_newton_start(p) : newton_start(within, ridge_, batch);
    const Tensor inverse = newton_inverse(p, start, options_.max_iter, gradient_);
    stream.show("inverse", inverse);
    return at::matmul(inverse, t);
  }

  /// The tokens [B,H,N,K] of each landmark, [B,H,m,P,K]; a row is filled up with zeros.
  Tensor blocks(const Tensor& q) const {
    const int64_t side = options_.ratio, batch = q.size(0), n = q.size(2), width = q.size(3);
    if (options_.grid.empty()) {
      const int64_t count = (n + side - 1) / side;
      return at::constant_pad_nd(q, {0, 0, 0, count * side - n})
          .reshape({batch, sizes_.heads, count, side, width});
    }
    const int64_t rows = options_.grid[0] / side, columns = options_.grid[1] / side;
    return q.reshape({batch, sizes_.heads, rows, side, columns, side, width})
        .transpose(3, 4)
        .reshape({batch, sizes_.heads, rows * columns, side * side, width});
  }

  /// Which places of blocks() hold a token, [B or 1,m,P] bool; undefined where all do.
  Tensor filled(const Tensor& q, const Tensor& valid) const {
    const int64_t side = options_.ratio, n = q.size(2), count = (n + side - 1) / side;
    if (!options_.grid.empty() || (!valid.defined() && count * side == n)) return {};
    const Tensor held = valid.defined() ? valid : at::ones({1, n}, q.options().dtype(at::kBool));
    return at::constant_pad_nd(held, {0, count * side - n}).view({held.size(0), count, side});
  }

  Landmarks pool(const Tensor& q, const Tensor& valid) const {
    const Tensor tokens = blocks(q), held = filled(q, valid);
    Landmarks result;
    if (pool_.defined()) {
      const Tensor weight = pool_.to(q.scalar_type()).permute({0, 2, 3, 1}).flatten(1);
      result.q = at::linear(tokens.flatten(3), weight);
    } else if (options_.pooling == "avg") {
      result.q = tokens.sum(3);
      if (held.defined())
        result.q = result.q / held.sum(2).clamp_min(1).unsqueeze(1).unsqueeze(-1);
      else
        result.q = result.q / tokens.size(3);
    } else {
      result.q = tokens.select(3, 0);
    }
    if (held.defined())
      result.missing =
          (pool_.defined() || options_.pooling == "avg" ? held.any(2) : held.select(2, 0))
              .logical_not();
    if (options_.pool_norm)
      result.q =
          at::gelu(at::layer_norm(result.q, {sizes_.head_width}, pool_gain_.to(q.scalar_type()),
                                  pool_shift_.to(q.scalar_type()), options_.ln_eps));
    return result;
  }

  /// The convolution of v [B,H,N,K] over the grid, head by head, the same for every channel.
  Tensor convolve(const Tensor& v) const {
    const int64_t batch = v.size(0), heads = v.size(1), n = v.size(2), width = v.size(3);
    const int64_t rows = options_.grid.empty() ? 1 : options_.grid[0];
    const Tensor image = v.permute({0, 3, 1, 2}).reshape({batch * width, heads, rows, n / rows});
    const Tensor sums = at::conv2d(image, skip_.to(v.scalar_type()), {}, {1, 1},
                                   {skip_.size(2) / 2, skip_.size(3) / 2}, {1, 1}, heads);
    return sums.view({batch, width, heads, n}).permute({0, 2, 3, 1});
  }

  SoftOptions options_;
  ProjectionSizes sizes_;
  bool normalised_;
  double ridge_;
  InverseGradient gradient_;
  std::shared_ptr<Linear> q_proj_, v_proj_, out_proj_;
  Tensor pool_, pool_gain_, pool_shift_, skip_;
};

const Register<Mixer, Soft, SoftOptions> soft{
    "soft", "softmax-free attention in linear time: a Gaussian kernel through pooled landmarks",
    cite("2110.11945"), specified_by("soft")};

}  // namespace
}  // namespace formwork

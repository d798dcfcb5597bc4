#include <c10/core/GradMode.h>

#include <cmath>

#include "methods/mixer/attention.h"
#include "methods/mixer/mixer.h"
#include "methods/mixer/token_cache.h"

namespace formwork {
namespace {

/// Added to the diagonal of the triangle T at the start.
constexpr double kFirstDiagonal = 0.1;

struct MinimalOptions {
  std::string attention_layout = "unchanged";
  std::string symmetric_factor = "cholesky";
  bool bias = false;
  std::optional<double> scale;
  void describe(OptionSet& o) {
    o.add("attention_layout", attention_layout,
          "which matrices there are: all four; queries = keys (symmetric); one matrix for queries "
          "and keys (collapsed_qk), alone (minimal), as T Tᵀ (cholesky) or symmetric (mirrored); a "
          "symmetric one alone (minimal_symmetric); all but the first two need model.heads = 1",
          one_of({"unchanged", "symmetric", "collapsed_qk", "minimal", "cholesky", "mirrored",
                  "minimal_symmetric"}));
    o.add("symmetric_factor", symmetric_factor,
          "how minimal_symmetric stores its matrix: as T Tᵀ, or as its lower triangle",
          one_of({"cholesky", "mirrored"}));
    o.add("bias", bias, "biases in the linear maps");
    o.add("scale", scale, "factor on the scores; absent = 1/sqrt(head width)");
  }
};

/// Softmax attention with fewer matrices, M [D,D] in place of queries and keys for one head.
/// unchanged: s_ij = (Wq x_i)·(Wk x_j), y = Wo A Wv x; symmetric: Wk = Wq; collapsed_qk: s_ij =
/// (M x_i)·x_j; cholesky: s_ij = (Tᵀ x_i)·(Tᵀ x_j), T lower triangular; mirrored: M = L +
/// strict_lower(L)ᵀ; minimal: M and y = A x; minimal_symmetric: the same with T or L. All scores
/// times 1/sqrt(D/H). Of T and L the entries above the diagonal are stored but never read. Minimal
/// layouts decode from the tokens alone: keys and values are one tensor, half the usual cache.
/// Bermeitinger et al. 2024, arXiv 2410.13732.
class Minimal final : public Mixer {
 public:
  Minimal(const MinimalOptions& options, const Site& site)
      : layout_(options.attention_layout),
        scale_(options.scale),
        heads_(site.heads),
        head_width_(site.width / site.heads),
        position_(site.position),
        causal_(site.causal),
        dropout_(site.attention_dropout) {
    check(!site.cross, "mixer.kind", "'minimal' cannot read another sequence; valid: softmax");
    check(site.width % site.heads == 0, "model.heads", "found ", site.heads,
          ", which does not divide model.width = ", site.width, "; valid: a divisor of it");
    const bool projected = layout_ == "unchanged" || layout_ == "symmetric";
    check(projected || site.heads == 1, "mixer.attention_layout",
          "collapsed layouts need one head: found '", layout_, "' with model.heads = ", site.heads,
          "; valid: model.heads = 1, or the layouts unchanged and symmetric");
    const bool alone = layout_ == "minimal" || layout_ == "minimal_symmetric";
    const std::string factor = layout_ == "minimal_symmetric" ? options.symmetric_factor : layout_;
    mirrored_ = factor == "mirrored";
    same_ = layout_ == "symmetric" || factor == "cholesky";
    const auto map = [&](const char* name, Role role) {
      return add_module(name, site.linear(name, site.width, site.width, role, options.bias));
    };
    if (projected) q_proj_ = map("q_proj", Role::query);
    if (layout_ == "unchanged") k_proj_ = map("k_proj", Role::key);
    if (mirrored_ || factor == "cholesky")
      triangle_ = add_parameter("tri.weight", first_triangle(site), Role::query);
    else if (!projected)
      q_proj_ = map("qk_proj", Role::query);
    if (alone) return;
    v_proj_ = map("v_proj", Role::value);
    out_proj_ = map("out_proj", Role::output);
  }
  static Traits traits(const MinimalOptions&) { return {.rotary = true, .bias = true}; }

  Tensor forward(const Tensor& x, Stream& stream, State* state) override {
    if (state) return decode(x, stream, *state);
    const Tensor positions = positions_of(stream, x, nullptr);
    const Tensor q = position_->rotate(query(x), positions);
    const Tensor k = same_ ? q : position_->rotate(key(x), positions);
    Scores scores = plain_scores();
    scores.causal = causal_;
    scores.bias = position_->bias(positions, positions, q.scalar_type());
    hide_padding(scores, stream.valid);
    return finish(q, k, value(x), scores, stream);
  }

  State make_state(int64_t batch, int64_t capacity, at::ScalarType type,
                   const at::Device& device) const override {
    if (!causal_) return Mixer::make_state(batch, capacity, type, device);
    const at::TensorOptions options = at::TensorOptions(type).device(device);
    if (keeps_tokens())
      return make_token_cache(kOwner, {"token"}, {head_width_}, heads_, batch, capacity, options);
    return make_token_cache(kOwner, {"key", "value"}, {head_width_, head_width_}, heads_, batch,
                            capacity, options);
  }

 private:
  static constexpr const char* kOwner = "mixer minimal";
  static Tensor first_triangle(const Site& site) {
    const double bound = std::sqrt(3.0 / static_cast<double>(site.width));
    const Tensor start =
        uniform_tensor({site.width, site.width}, -bound, bound, site.random.child("tri"));
    return (start + kFirstDiagonal * at::eye(site.width)).tril();
  }

  /// Keys and values are both the tokens.
  bool keeps_tokens() const { return !v_proj_ && !same_; }

  /// x [B,N,D] → [B,H,N,K].
  Tensor split(const Tensor& x) const {
    return x.view({x.size(0), x.size(1), heads_, head_width_}).transpose(1, 2);
  }
  Tensor query(const Tensor& x) const {
    if (q_proj_) return split(q_proj_->forward(x));
    const Tensor lower = triangle_.tril();
    // Rows times T are Tᵀ times columns.
    return split(at::matmul(x, mirrored_ ? lower + triangle_.tril(-1).t() : lower));
  }
  /// Not asked for where keys are the queries.
  Tensor key(const Tensor& x) const { return split(k_proj_ ? k_proj_->forward(x) : x); }
  Tensor value(const Tensor& x) const { return split(v_proj_ ? v_proj_->forward(x) : x); }

  Scores plain_scores() const {
    Scores scores;
    scores.scale = scale_;
    scores.dropout = training() ? dropout_ : 0.0;
    return scores;
  }

  Tensor finish(const Tensor& q, const Tensor& k, const Tensor& v, const Scores& scores,
                const Stream& stream) const {
    show_parts(stream, q, k, v, scores);
    // Autocast gives queries another type than tokens that no map has read.
    const auto type = q.scalar_type();
    const Tensor mixed = attend(q, k.to(type), v.to(type), scores).transpose(1, 2).flatten(2);
    const Tensor y = out_proj_ ? out_proj_->forward(mixed) : mixed;
    stream.show("output", y);
    return y;
  }

  Tensor decode(const Tensor& x, Stream& stream, State& state) const {
    check(causal_, kOwner, "a mixer that sees both ways cannot decode with a state");
    state.accept(x, stream.valid);
    const c10::NoGradGuard no_grad;
    const Tensor positions = positions_of(stream, x, &state);
    const Tensor q = position_->rotate(query(x), positions);
    const Tensor v = value(x);
    const CacheView view =
        keeps_tokens()
            ? keep_tokens(state, {{"token", v}}, stream.valid)
            : keep_tokens(state,
                          {{"key", same_ ? q : position_->rotate(key(x), positions)}, {"value", v}},
                          stream.valid);
    const Tensor places = at::arange(view.total, positions.options());
    const auto kept = [&](const char* name) {
      return state.tensors.at(name).narrow(2, 0, view.total);
    };
    const Tensor values = kept(keeps_tokens() ? "token" : "value");
    const Tensor keys = keeps_tokens() ? position_->rotate(values, places) : kept("key");
    Scores scores = plain_scores();
    scores.bias = position_->bias(positions, places, q.scalar_type());
    if (view.together && view.total == x.size(1))
      scores.causal = view.total > 1;
    else if (!view.together || x.size(1) > 1)
      scores.allowed = view.allowed();
    return hide_invalid(finish(q, keys, values, scores, stream), stream.valid);
  }

  std::string layout_;
  std::optional<double> scale_;
  int64_t heads_, head_width_;
  std::shared_ptr<Position> position_;
  bool causal_;
  double dropout_;
  bool mirrored_ = false;
  bool same_ = false;  // keys are the queries
  std::shared_ptr<Linear> q_proj_, k_proj_, v_proj_, out_proj_;
  Tensor triangle_;
};

const Register<Mixer, Minimal, MinimalOptions> minimal{
    "minimal", "softmax attention with queries and keys, or values and output, left out",
    cite("2410.13732"), specified_by("minimal_transformer")};

}  // namespace
}  // namespace formwork

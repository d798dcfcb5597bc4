#include <ATen/core/grad_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <map>

#include "methods/collective.h"
#include "methods/conditioning/conditioning.h"
#include "methods/conditioning/polar.h"

namespace formwork {
namespace {

constexpr const char* kWhere = "model.conditioning.kind";

struct ConditionedOptions {
  std::string scope = "per_sample";
  double decay = 0.99;
  PolarOptions polar;
  void describe(OptionSet& o) {
    o.add("scope", scope,
          "what is conditioned: the tokens of each sample (sees the future: not in causal models), "
          "or all alike by a map that follows past batches (running); the table of embeddings "
          "itself: model.stem.kind = conditioned_token",
          one_of({"per_sample", "table", "running"}));
    o.add("decay", decay, "running: what one batch leaves of the average over those before it",
          fraction());
    polar.describe(o);
    o.require(
        "scope", [this] { return scope != "table"; },
        "found table, which the stem does: set model.stem.kind = \"conditioned_token\" and "
        "model.conditioning.kind = \"none\"; here valid: per_sample, running");
  }
};

/// The rows of valid [B,N] with some number of real tokens.
using RowsByCount = std::map<int64_t, std::vector<int64_t>>;
RowsByCount rows_by_count(const Tensor& valid) {
  const Tensor counts = valid.sum(1).to(at::kCPU).contiguous();
  RowsByCount rows;
  for (int64_t b = 0; b < counts.size(0); ++b)
    rows[counts.const_data_ptr<int64_t>()[b]].push_back(b);
  return rows;
}

/// X' = X + scale · s1 U Vᵀ for X = U diag(s) Vᵀ [N,D], the embedded tokens of a sample before
/// positions: every singular value grows by s1, so kappa(X') = 2k / (1 + k) <= 2 for kappa(X) = k
/// and scale = 1. Padded tokens take no part and pass. No parameters; the same in evaluation. The
/// class token takes part; as it starts at 0, it gets no correction there except by method = svd.
/// Token norms grow with it: every singular value of X' is between s1 and 2 s1.
/// Where X has not full rank (a token that occurs twice, if N <= D; few different tokens) Q is not
/// unique and kappa(X') <= 2 holds by method = svd alone, which completes it arbitrarily.
/// scope = running, a project design: X' = X (I + scale sqrt(lmax) (R + 1e-4 lmax I)^(-1/2)), R
/// [D,D] the average of XᵀX / N over past batches, at first I; it is changed after its use and in
/// training only, so no token sees another of its own batch. It is one linear map and is
/// differentiated as such.
/// 2 N r² + O(r³) operations a sample, r = min(N, D). Saratchandran & Lucey 2025, arXiv 2505.12789,
/// whose construction beyond kappa(X') <= 2 was not available: s1 for every singular value is this
/// project's reading.
class ConditionedEmbeddedTokens final : public Conditioning {
 public:
  ConditionedEmbeddedTokens(const ConditionedOptions& options, const ConditioningSite& site)
      : options_(options), running_(options.scope == "running") {
    check(running_ || !site.causal, "model.conditioning.scope",
          "per_sample lets every token see the whole sample, and this model must not see the "
          "future; valid: running, or model.stem.kind = conditioned_token in place of it");
    if (running_) second_moment_ = add_buffer("second_moment", at::eye(site.width));
  }
  static Traits traits(const ConditionedOptions& o) {
    const bool running = o.scope == "running";
    return {.causal = running, .exact_gradient = running || o.polar.gradient == "through"};
  }

  bool steady() const override { return false; }  // looks at eigenvalues
  Tensor forward(const Tensor& x, Stream& stream) override {
    if (!running_) return per_sample(x, stream.valid);
    const Tensor y = x + at::matmul(x, map().to(x.scalar_type())).to(x.scalar_type());
    if (training()) follow(x, stream.valid);
    return stream.valid.defined() ? at::where(stream.valid.unsqueeze(-1), y, x) : y;
  }

 private:
  Tensor correction(const Tensor& x) const {
    return correction_of(x, polar_of(x, options_.polar, kWhere, training()), options_.polar);
  }

  /// Zeros in place of padding would not do: they would lower the rank of short samples.
  Tensor per_sample(const Tensor& x, const Tensor& valid) const {
    if (!valid.defined() || valid.all().item<bool>()) return x + correction(x);
    Tensor all = at::zeros_like(x);
    for (const auto& [count, list] : rows_by_count(valid)) {
      if (count == 0) continue;
      const Tensor rows = at::tensor(list, at::kLong).to(x.device());
      const Tensor places = valid.index_select(0, rows).nonzero().select(1, 1).view(
          {static_cast<int64_t>(list.size()), count});
      all.index_put_({rows.unsqueeze(1), places}, correction(x.index({rows.unsqueeze(1), places})));
    }
    return x + all;
  }

  /// The map [D,D] of the present statistics, computed again only when they have changed.
  const Tensor& map() {
    const Contents now(second_moment_);
    if (!map_.defined() || now != map_of_) {
      map_ = options_.polar.scale * inverse_root(second_moment_, options_.polar.min_kappa);
      map_of_ = now;
    }
    return map_;
  }

  void follow(const Tensor& x, const Tensor& valid) {
    const at::NoGradGuard no_grad;
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const int64_t width = x.size(-1);
    Tensor rows = x.detach().reshape({-1, width});
    if (valid.defined()) rows = rows.index({valid.reshape({-1})});
    rows = rows.to(at::promote_types(rows.scalar_type(), at::kFloat));
    const Tensor tokens = at::full({1}, static_cast<double>(rows.size(0)), rows.options());
    const Tensor sums =
        sum_over_processes(at::cat({at::matmul(rows.t(), rows).reshape({-1}), tokens}));
    const Tensor mean = sums.narrow(0, 0, width * width).view({width, width}) /
                        sums.narrow(0, width * width, 1).clamp_min(1);
    second_moment_.mul_(options_.decay)
        .add_(mean.to(second_moment_.scalar_type()), 1 - options_.decay);
  }

  ConditionedOptions options_;
  bool running_;
  Tensor second_moment_;  // [D,D], of the tokens of past batches
  Tensor map_;
  Contents map_of_;
};

const Register<Conditioning, ConditionedEmbeddedTokens, ConditionedOptions>
    conditioned_embedded_tokens{
        "conditioned_embedded_tokens",
        "every singular value of the embedded tokens raised by the largest: condition number <= 2",
        cite("2505.12789"), specified_by("conditioned_embedded_tokens")};

}  // namespace
}  // namespace formwork

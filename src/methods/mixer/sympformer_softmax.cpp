#include <c10/core/GradMode.h>

#include <array>
#include <cmath>

#include "methods/mixer/sympformer.h"
#include "methods/mixer/token_cache.h"

namespace formwork {
namespace {

constexpr std::array<const char*, 4> kKeysAt{"keys.0", "keys.1", "keys.2", "keys.3"};
constexpr std::array<const char*, 4> kValuesAt{"values.0", "values.1", "values.2", "values.3"};
constexpr double kLegacyFloor = 1e-8;  // added to z²

/// What a query may look at: keys and values with the rule of their pairs.
struct Sight {
  Tensor keys, values;
  PairRule rule;
};

/// With A = Wqᵀ Wk / (H sqrt(K)), u_j = A x_j and E_ij = exp(x_i·u_j), cut at ±60: the scores of
/// all heads are averaged before the exponential. z_i = max(1/n_i sum_j E_ij, eps) and
///   Ham = 1/2 sum_i p_iᵀ B p_i / z_i - 1/2 sum_ij E_ij,  F = dHam/dp,  G = -dHam/dx;
/// B = sym(Wv (A + ridge I)⁻¹), or a matrix of its own (metric free).
class SoftmaxFlow final : public FlowKernel {
 public:
  SoftmaxFlow(const SympformerOptions& options, const Site& site)
      : options_(options), causal_(site.causal), positions_(site.oracle_positions) {
    check(site.width % site.heads == 0, "model.heads", "found ", site.heads,
          ", which does not divide model.width = ", site.width, "; valid: a divisor of it");
    check(positions_ <= static_cast<int64_t>(kKeysAt.size()), site.name,
          "the wiring evaluates its mixer at ", positions_, " places; valid: at most ",
          kKeysAt.size());
    const double head_width = static_cast<double>(site.width / site.heads);
    scale_ = 1.0 / (static_cast<double>(site.heads) * std::sqrt(head_width));
    width_ = site.width;
    const auto map = [&](const char* name, Role role) {
      return add_module(name, site.linear(name, site.width, site.width, role));
    };
    q_proj_ = map("q_proj", Role::query);
    k_proj_ = map("k_proj", Role::key);
    if (legacy() || (options.metric == "theory")) v_proj_ = map("v_proj", Role::value);
    const bool own_flow = options.flow != "metric";
    if (options.metric == "free" && !(legacy() && own_flow))
      metric_ = add_parameter("metric", at::eye(site.width), Role::other);
    if (own_flow)
      c_b_ = add_parameter("c_B.weight",
                           options.flow == "free" ? at::eye(site.width)
                                                  : normal_tensor({site.width, site.width}, 0.02,
                                                                  site.random.child("c_B")),
                           Role::other);
    if (legacy()) c_proj_ = map("c_proj", Role::output);
  }

  FlowValues evaluate(const FlowInput& in) override {
    const Matrices& matrices = matrices_of(in);
    // Another momentum at the same place: its normaliser is known.
    if (!in.call.want_force && in.call.noted_position == in.call.position)
      return {flow_of(in.p, in.call.notes.at("z"), matrices), {}};
    if (legacy()) return legacy_values(in, matrices);
    return sums_see_later() ? full_values(in, matrices) : query_values(in, matrices);
  }

  State make_state(int64_t batch, int64_t capacity, const at::TensorOptions& kind) const override {
    check(!options_.leaks(), "mixer.sympformer.causal_force",
          "'as_released' lets a query's force tell of later tokens, which do not exist yet while "
          "decoding; valid: query_only");
    std::vector<const char*> names;
    std::vector<int64_t> widths;
    for (size_t i = 0; i < static_cast<size_t>(positions_); ++i) {
      names.push_back(kKeysAt[i]);
      widths.push_back(width_);
      if (!legacy()) continue;
      names.push_back(kValuesAt[i]);
      widths.push_back(2 * width_);
    }
    return make_token_cache("mixer sympformer", names, widths, 1, batch, capacity, kind);
  }

  void replay(State&, const std::vector<FlowInput>&) const override {}  // a cache is cropped

 private:
  struct Matrices {
    Tensor a, b;  // A and the symmetric B; b is undefined where nothing needs it
  };
  bool legacy() const { return options_.force == "legacy"; }
  /// The force is the whole derivative: it has a part through the keys.
  bool sums_see_later() const { return !causal_ || options_.leaks(); }

  /// A and B do not depend on the tokens: once a pass, and in inference once until a parameter
  /// changes.
  const Matrices& matrices_of(const FlowInput& in) {
    if (in.call.notes.count("A") > 0) {
      now_ = {in.call.notes.at("A"), in.call.notes.at("B")};
      return now_;
    }
    const bool keep = !c10::GradMode::is_enabled() && !training();
    std::vector<std::pair<const void*, int64_t>> stamp;
    if (keep) {
      stamp.emplace_back(nullptr, static_cast<int64_t>(in.x.scalar_type()));
      for (const Parameter& parameter : parameters())
        stamp.emplace_back(parameter.tensor.const_data_ptr(),
                           static_cast<int64_t>(parameter.tensor._version()));
    }
    if (!keep || stamp != stamp_ || !kept_.a.defined()) {
      kept_ = make_matrices(in.x.scalar_type());
      stamp_ = std::move(stamp);
    }
    now_ = kept_;
    if (!keep) kept_ = {};
    in.call.notes["A"] = now_.a;
    in.call.notes["B"] = now_.b;
    return now_;
  }

  Matrices make_matrices(at::ScalarType type) const {
    Matrices made;
    made.a = at::mm(q_proj_->weight().to(type).t(), k_proj_->weight().to(type)) * scale_;
    if (metric_.defined()) {
      made.b = metric_.to(type);
    } else if (!(legacy() && c_b_.defined())) {
      // A is a product of small matrices: its inverse needs all digits there are.
      const Tensor wide = made.a.to(at::kDouble);
      const Tensor shifted = wide + options_.ridge * at::eye(width_, wide.options());
      made.b = std::get<0>(at::linalg_solve_ex(shifted, v_proj_->weight().to(at::kDouble),
                                               /*left=*/false))
                   .to(type);
    }
    if (made.b.defined()) made.b = 0.5 * (made.b + made.b.t());
    return made;
  }

  /// The keys u = A x of this and, with a state, of earlier tokens.
  Sight keys_of(const FlowInput& in, const Matrices& matrices) const {
    Sight sight;
    sight.keys = at::matmul(in.x, matrices.a.t());
    sight.rule.causal = causal_;
    sight.rule.key_valid = in.valid;
    if (!in.state) return sight;
    sight.keys = remember(in, kKeysAt, sight.keys, &sight.rule);
    return sight;
  }

  /// Writes tokens [B,n,W] behind the earlier ones and returns all [B,M,W].
  Tensor remember(const FlowInput& in, const std::array<const char*, 4>& names,
                  const Tensor& tokens, PairRule* rule) const {
    const char* name = names[static_cast<size_t>(in.call.position)];
    State& state = *in.state;
    const Tensor& cache = state.tensors.at(name);
    const CacheView view =
        write_tokens(state, {{name, tokens.unsqueeze(1).to(cache.scalar_type())}}, in.valid);
    if (rule) {
      *rule = {};
      rule->causal = view.together;
      if (!view.together) rule->allowed = view.allowed().squeeze(1);
    }
    return state.tensors.at(name).select(1, 0).narrow(1, 0, view.total).to(tokens.scalar_type());
  }

  /// z from the sums of weights; remembers it for another momentum at this place.
  Tensor normaliser(const FlowInput& in, const Tensor& mean) const {
    return note(in, mean.clamp_min(options_.eps));
  }
  static Tensor note(const FlowInput& in, const Tensor& z) {
    in.call.notes["z"] = z;
    in.call.noted_position = in.call.position;
    return z;
  }

  /// B p / z, or that of the flow's own matrix.
  Tensor flow_of(const Tensor& p, const Tensor& z, const Matrices& matrices) const {
    return at::matmul(p, c_b_.defined() ? c_b_.to(p.scalar_type()).t() : matrices.b) / z;
  }

  /// The derivative through the query alone, G_i = sum_j W_ij u_j: later tokens have no part in it.
  FlowValues query_values(const FlowInput& in, const Matrices& matrices) const {
    const Sight sight = keys_of(in, matrices);
    const bool force = in.call.want_force;
    const ExponentialSums sums = exponential_sums(in.x, sight.keys, force ? sight.keys : Tensor(),
                                                  sight.rule, CutPairs::dropped);
    const Tensor mean = sums.total / in.count, z = normaliser(in, mean);
    FlowValues values;
    if (in.call.want_flow) values.flow = flow_of(in.p, z, matrices);
    if (!force) return values;
    const Tensor open = (mean > options_.eps).to(z.scalar_type());
    const Tensor s = (in.p * at::matmul(in.p, matrices.b)).sum(-1, true) / z / z * open;
    values.force = (s / in.count + (options_.include_potential ? 1.0 : 0.0)) * 0.5 * sums.y;
    return values;
  }

  /// The whole derivative, G = (W x) Aᵀ + (Wᵀ x) A.
  FlowValues full_values(const FlowInput& in, const Matrices& matrices) const {
    const Sight sight = keys_of(in, matrices);
    FlowValues values;
    Tensor z;
    if (in.call.want_force) {
      const Tensor q = (in.p * at::matmul(in.p, matrices.b)).sum(-1, true);
      const ForceSums sums = force_sums(in.x, sight.keys, q, in.count,
                                        {sight.rule, options_.eps, options_.include_potential});
      z = note(in, sums.z);
      values.force = sums.rows + at::matmul(sums.columns, matrices.a);
    } else {
      z = normaliser(
          in,
          exponential_sums(in.x, sight.keys, {}, sight.rule, CutPairs::dropped).total / in.count);
    }
    if (in.call.want_flow) values.flow = flow_of(in.p, z, matrices);
    return values;
  }

  /// G_i = Wc sum_j E_ij (s_i + s_j - 2) v_j / (2 n_i), s = |p|²/(z² + 1e-8).
  FlowValues legacy_values(const FlowInput& in, const Matrices& matrices) const {
    Sight sight = keys_of(in, matrices);
    const ExponentialSums weights =
        exponential_sums(in.x, sight.keys, {}, sight.rule, CutPairs::dropped);
    const Tensor z = normaliser(in, weights.total / in.count);
    FlowValues values;
    if (in.call.want_flow) values.flow = flow_of(in.p, z, matrices);
    if (!in.call.want_force) return values;
    const at::ScalarType type = in.x.scalar_type();
    const Tensor s = in.p.square().sum(-1, true) / (z.square() + kLegacyFloor);
    const Tensor v = at::matmul(in.x, v_proj_->weight().to(type).t());
    sight.values = at::cat({v, s * v}, 2);
    if (in.state) sight.values = remember(in, kValuesAt, sight.values, nullptr);
    const Tensor y = exponential_sums(in.x, sight.keys, sight.values, sight.rule, CutPairs::kept).y;
    const Tensor sum = (s - 2.0) * y.narrow(2, 0, width_) + y.narrow(2, width_, width_);
    values.force = at::matmul(sum, c_proj_->weight().to(type).t()) / (2.0 * in.count);
    return values;
  }

  SympformerOptions options_;
  bool causal_;
  int64_t positions_;
  int64_t width_ = 0;
  double scale_ = 1.0;
  std::shared_ptr<Linear> q_proj_, k_proj_, v_proj_, c_proj_;
  Tensor metric_, c_b_;
  Matrices now_, kept_;
  std::vector<std::pair<const void*, int64_t>> stamp_;
};

}  // namespace

std::shared_ptr<FlowKernel> softmax_flow(const SympformerOptions& options, const Site& site) {
  return std::make_shared<SoftmaxFlow>(options, site);
}

}  // namespace formwork

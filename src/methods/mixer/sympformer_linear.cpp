#include "kernels/matrix_state.h"
#include "methods/mixer/sympformer.h"

namespace formwork {
namespace {

std::string sum_name(int64_t call) {
  return join_text("sum.", call);
}

/// A head of its own: [B,N,D] as [B,1,N,D].
Tensor one_head(const Tensor& tokens) {
  return tokens.unsqueeze(1);
}

/// With K_ij = (A x_i)·x_j and R_ij = p_i·p_j, where causal both 0 for j > i:
///   F_i = 1/n_i sum_j K_ij p_j,  G_i = -1/n_i sum_j R_ij A x_j + V x_i
/// and in first order F_i = 1/n_i sum_j K_ij V x_j. Both pass through sum_j x_j p_jᵀ [D,D], which
/// is all that decoding needs.
class LinearFlow final : public FlowKernel {
 public:
  LinearFlow(const SympformerOptions& options, const Site& site)
      : options_(options), width_(site.width), calls_(site.oracle_calls), causal_(site.causal) {
    a_ = add_module("A", site.linear("A", site.width, site.width, Role::query));
    v_ = add_module("V", site.linear("V", site.width, site.width, Role::value));
  }

  FlowValues evaluate(const FlowInput& in) override {
    const at::ScalarType type = in.x.scalar_type();
    const Tensor a = a_->weight().to(type), v = v_->weight().to(type);
    const bool first_order = !in.p.defined();
    const Tensor p = first_order ? at::matmul(in.x, v.t()) : in.p;
    Tensor sum;  // of x pᵀ
    if (in.state) sum = in.state->tensors.at(sum_name(in.call.call)).to(type);
    FlowValues values;
    Tensor after;
    if (in.call.want_flow) {
      after = sum;
      values.flow =
          products(at::matmul(in.x, a.t()), in.x, p, in.state ? &after : nullptr) / in.count;
    }
    if (!first_order && in.call.want_force) {
      Tensor turned = in.state ? sum.transpose(-2, -1) : Tensor();
      const Tensor pull = products(p, p, in.x, in.state ? &turned : nullptr);
      values.force = at::matmul(in.x, v.t()) - at::matmul(pull, a.t()) / in.count;
      if (in.state && !after.defined()) after = turned.transpose(-2, -1);
    }
    if (in.state) put(*in.state, in.call.call, after);
    return values;
  }

  State make_state(int64_t batch, int64_t, const at::TensorOptions& kind) const override {
    State state("mixer sympformer", Forgetting::snapshot, batch, -1);
    const auto type = at::promote_types(kind.dtype().toScalarType(), at::kFloat);
    for (int64_t call = 0; call < calls_; ++call)
      state.tensors[sum_name(call)] = at::zeros({batch, 1, width_, width_}, kind.dtype(type));
    return state;
  }

  void replay(State& state, const std::vector<FlowInput>& calls) const override {
    for (size_t i = 0; i < calls.size(); ++i) {
      const int64_t call = static_cast<int64_t>(i);
      const Tensor& sum = state.tensors.at(sum_name(call));
      put(state, call,
          sum + at::matmul(one_head(calls[i].x).transpose(-2, -1), one_head(calls[i].p)));
    }
  }

 private:
  static void put(State& state, int64_t call, const Tensor& sum) {
    Tensor& kept = state.tensors.at(sum_name(call));
    kept = sum.to(kept.scalar_type()).contiguous();
  }

  /// sum_j (q_i·k_j) v_j [B,N,D] over the tokens that i sees.
  Tensor products(const Tensor& q, const Tensor& k, const Tensor& v, Tensor* sum) const {
    if (causal_)
      return matrix_state_scan({one_head(q), one_head(k), one_head(v), {}, sum}, options_.chunk)
          .squeeze(1);
    return at::matmul(q, at::matmul(k.transpose(-2, -1), v));
  }

  SympformerOptions options_;
  int64_t width_, calls_;
  bool causal_;
  std::shared_ptr<Linear> a_, v_;
};

}  // namespace

std::shared_ptr<FlowKernel> linear_flow(const SympformerOptions& options, const Site& site) {
  return std::make_shared<LinearFlow>(options, site);
}

}  // namespace formwork

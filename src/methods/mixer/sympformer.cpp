#include "methods/mixer/sympformer.h"

#include <c10/core/DispatchKeySet.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include "methods/mixer/mixer.h"

namespace formwork {

void SympformerOptions::describe(OptionSet& o) {
  o.add("kernel", kernel,
        "weights of pairs: softmax, exp(x A x) normalised; linear, x A x in linear time",
        one_of({"softmax", "linear"}));
  o.add(
      "order", order,
      "2: position and momentum, for a wiring that carries one; 1: the flow of the position alone, "
      "for any other wiring, kernel linear only",
      between(1, 2));
  o.add("force", force,
        "softmax: hamiltonian, minus the derivative of the energy; legacy, the released program's "
        "older force, which its integrator strang uses",
        one_of({"hamiltonian", "legacy"}));
  o.add("flow", flow,
        "softmax, what moves positions: metric, the energy's B p / z; free, a trained matrix in "
        "place of B that starts as the identity; as_released, the same from N(0, 0.02), as the "
        "released etd_ab2 and strang have it",
        one_of({"metric", "free", "as_released"}));
  o.add("metric", metric,
        "softmax, B: theory, from the query, key and value maps, badly conditioned at the start; "
        "free, a trained matrix that starts as the identity",
        one_of({"theory", "free"}));
  o.add("ridge", ridge, "added to the diagonal of A before it is inverted for metric theory",
        at_least(0));
  o.add("include_potential", include_potential, "the energy has its part without momenta");
  o.add("causal_force", causal_force,
        "softmax, causal: query_only, the derivative through the query, which sees no later token; "
        "as_released, the whole derivative, which lets the future leak into every token",
        one_of({"query_only", "as_released"}));
  o.add("allow_future_leak", allow_future_leak,
        "train a causal model with causal_force as_released all the same; its losses mean nothing");
  o.add(
      "kernel_norm", kernel_norm,
      "what sums over tokens are divided by: visible, the tokens that are seen; seq_len, all of "
      "the sequence, as released (causal outputs then depend on the length); fixed, kernel_length",
      one_of({"visible", "seq_len", "fixed"}));
  o.add("kernel_length", kernel_length,
        "divisor of kernel_norm fixed; absent: the longest sequence of the task", at_least(1));
  o.add("eps", eps, "softmax: least normaliser z", above(0));
  o.add("chunk", chunk, "linear: tokens that a causal pass multiplies at once; speed only",
        at_least(1));
  o.require(
      "order", [this] { return order == 2 || kernel == "linear"; },
      "valid: 2, the softmax kernel is no flow without a momentum");
  o.require(
      "kernel_length", [this] { return kernel_norm == "fixed" || !kernel_length; },
      "goes with kernel_norm fixed");
}

namespace {

/// One particle a token, with a position x and a momentum p, in a density that moves by a damped
/// Hamiltonian flow: an oracle of F = dHam/dp and G = -dHam/dx (methods/oracle.h), which a wiring
/// with a momentum integrates over the layers. Both kernels in closed form, so that training needs
/// first derivatives only; softmax by tiles, linear by chunks, neither holds N x N numbers.
/// Stein, Li, Steidl 2026 (SympFormer), arXiv 2603.16535.
/// The released causal softmax models see the future, since the force on a token has a part from
/// every later query: query_only leaves that part out, as the mask of the linear kernel does. Their
/// sums are divided by the whole length: here by the tokens seen.
class Sympformer final : public Mixer {
 public:
  Sympformer(const SympformerOptions& options, const Site& site)
      : options_(options), causal_(site.causal), calls_(site.oracle_calls), width_(site.width) {
    check(!site.cross, "mixer.kind", "'sympformer' cannot read another sequence; valid: softmax");
    check(!site.causal || !options.leaks() || options.allow_future_leak, "mixer.sympformer", kLeak);
    if (options.kernel_norm == "fixed") {
      length_ = options.kernel_length.value_or(site.length);
      check(length_ > 0, "mixer.sympformer.kernel_length",
            "is missing, and the task's inputs have no fixed length; set it");
    }
    const bool softmax = options.kernel == "softmax";
    kernel_ = add_module("", softmax ? softmax_flow(options, site) : linear_flow(options, site));
  }
  static Traits traits(const SympformerOptions& o) {
    Traits traits;
    traits.momentum = o.order == 2;
    if (o.leaks() && !o.allow_future_leak) traits.leak = kLeak;
    return traits;
  }

  Tensor forward(const Tensor& x, Stream& stream, State* state) override {
    check(!state || causal_, kOwner, "a mixer that sees both ways cannot decode with a state");
    if (options_.order == 1) return first_order(x, stream, state);
    // A replay brings what the calls of a pass were given, side by side.
    if (!stream.oracle && state && x.size(2) == 2 * calls_ * width_) {
      replay(x, stream, *state);
      return x;
    }
    check(stream.oracle != nullptr, kOwner,
          "a momentum stream requires a stack with auxiliary state; valid wirings: sympformer");
    return second_order(x, stream, state);
  }

  State make_state(int64_t batch, int64_t capacity, at::ScalarType type,
                   const at::Device& device) const override {
    if (!causal_) return Mixer::make_state(batch, capacity, type, device);
    check(options_.kernel_norm != "seq_len", "mixer.sympformer.kernel_norm",
          "'seq_len' divides by the length of the whole sequence, which is not known while "
          "decoding; valid: visible, fixed");
    return kernel_->make_state(batch, capacity, at::TensorOptions(type).device(device));
  }

 private:
  static constexpr const char* kOwner = "mixer sympformer";
  static constexpr const char* kLeak =
      "causal_force = as_released on a causal task lets every token see the future; valid: "
      "query_only, or allow_future_leak = true to train it all the same";

  Tensor first_order(const Tensor& x, Stream& stream, State* state) const {
    Oracle call;
    call.want_force = false;
    if (!state) return evaluate(x, stream, call, nullptr);
    state->accept(x, stream.valid);
    const c10::NoGradGuard no_grad;
    const Tensor y = hide_invalid(evaluate(x, stream, call, state), stream.valid);
    state->advance(x.size(1), stream.valid);
    return y;
  }

  Tensor second_order(const Tensor& x, Stream& stream, State* state) const {
    Oracle& call = *stream.oracle;
    if (!state) return evaluate(x, stream, call, nullptr);
    const bool last = call.call == calls_ - 1;
    if (state->forgetting() == Forgetting::append_only) {
      if (call.call == 0) state->accept(x, stream.valid);
    } else {
      // Sums go back by replay, which needs the positions and momenta of all evaluations.
      Tensor& all = call.notes["inputs"];
      const Tensor both = at::cat({x, call.p.to(x.scalar_type())}, 2);
      all = all.defined() ? at::cat({all, both}, 2) : both;
      if (last) state->accept(all, stream.valid);
    }
    const c10::NoGradGuard no_grad;
    Tensor flow = evaluate(x, stream, call, state);
    if (flow.defined()) flow = hide_invalid(flow, stream.valid);
    if (call.force.defined()) call.force = hide_invalid(call.force, stream.valid);
    if (last) state->advance(x.size(1), stream.valid);
    return flow;
  }

  /// F, and G into the call; in float32 at least, whatever autocast says.
  Tensor evaluate(const Tensor& x, const Stream& stream, Oracle& call, State* state) const {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const at::ScalarType type = at::promote_types(x.scalar_type(), at::kFloat);
    const auto clean = [&](const Tensor& tokens) {
      if (!tokens.defined()) return tokens;
      if (!stream.valid.defined()) return tokens.to(type);
      return tokens.to(type).masked_fill(stream.valid.logical_not().unsqueeze(-1), 0);
    };
    const FlowInput in{clean(x),     clean(call.p), count(x, stream, state).to(type),
                       stream.valid, call,          state};
    const FlowValues values = kernel_->evaluate(in);
    call.force = values.force.defined() ? values.force.to(x.scalar_type()) : Tensor();
    return values.flow.defined() ? values.flow.to(x.scalar_type()) : Tensor();
  }

  /// n_i: what the sums of each query are divided by.
  Tensor count(const Tensor& x, const Stream& stream, const State* state) const {
    const at::TensorOptions whole = x.options().dtype(at::kLong);
    if (length_ > 0) return at::full({1, 1}, length_, whole);
    const int64_t n = x.size(1);
    const bool visible = causal_ && options_.kernel_norm == "visible";
    if (state) return (state->next_positions(n, stream.valid).to(x.device()) + 1).unsqueeze(-1);
    if (!stream.valid.defined())
      return visible ? at::arange(1, n + 1, whole).unsqueeze(-1) : at::full({1, 1}, n, whole);
    const Tensor seen = visible ? stream.valid.cumsum(1) : stream.valid.sum(1, true);
    return seen.clamp_min(1).unsqueeze(-1);
  }

  void replay(const Tensor& inputs, const Stream& stream, State& state) const {
    Oracle call;
    std::vector<FlowInput> calls;
    const at::ScalarType type = at::promote_types(inputs.scalar_type(), at::kFloat);
    Tensor clean = inputs.to(type);
    if (stream.valid.defined())
      clean = clean.masked_fill(stream.valid.logical_not().unsqueeze(-1), 0);
    for (int64_t i = 0; i < calls_; ++i)
      calls.push_back({clean.narrow(2, 2 * i * width_, width_),
                       clean.narrow(2, (2 * i + 1) * width_, width_),
                       {},
                       stream.valid,
                       call});
    kernel_->replay(state, calls);
    state.advance(inputs.size(1), stream.valid);
  }

  SympformerOptions options_;
  bool causal_;
  int64_t calls_, width_;
  int64_t length_ = 0;
  std::shared_ptr<FlowKernel> kernel_;
};

const Register<Mixer, Sympformer, SympformerOptions> sympformer{
    "sympformer", "tokens as particles with momenta: flow and force of a kernel's energy",
    cite("2603.16535"), specified_by("sympformer")};

}  // namespace
}  // namespace formwork

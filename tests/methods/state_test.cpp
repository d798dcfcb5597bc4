// The generic operations of a state on recurrences that are written here: the gated delta rule and
// Mamba-2, whose states after every token are known.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <cmath>

#include "support/dynamic.h"
#include "support/mixers.h"

namespace formwork::test {
namespace {

/// A recurrence token by token. Without a state it runs from the empty one.
class Recurrence : public Mixer {
 public:
  Tensor forward(const Tensor& x, Stream& stream, State* state) override {
    State own = state ? *state : make_state(x.size(0), -1, x.scalar_type(), at::kCPU);
    State& used = state ? *state : own;
    used.accept(x, stream.valid);
    std::vector<Tensor> outputs;
    for (int64_t i = 0; i < x.size(1); ++i) {
      const State before = used;
      Tensor y = step(x.select(1, i), used);
      if (stream.valid.defined()) {
        const Tensor real = stream.valid.select(1, i);
        const auto fits = [&](const Tensor& t) { return real.view_symint(shape_for(t)); };
        y = at::where(fits(y), y, 0.0);
        for (auto& [name, tensor] : used.tensors)
          tensor = at::where(fits(tensor), tensor, before.tensors.at(name));
      }
      outputs.push_back(y);
    }
    used.advance(x.size(1), stream.valid);
    return at::stack(outputs, 1);
  }
  State make_state(int64_t batch, int64_t, at::ScalarType type, const at::Device&) const override {
    State state("test recurrence", Forgetting::snapshot, batch, -1);
    for (const auto& [name, shape] : shapes()) {
      std::vector<int64_t> whole{batch};
      whole.insert(whole.end(), shape.begin(), shape.end());
      state.tensors[name] = at::zeros(whole, type);
    }
    return state;
  }

 protected:
  virtual std::map<std::string, std::vector<int64_t>> shapes() const = 0;
  /// x [B,D] → y [B,D']; replaces the state's tensors.
  virtual Tensor step(const Tensor& x, State& state) const = 0;

 private:
  static std::vector<c10::SymInt> shape_for(const Tensor& t) {
    std::vector<c10::SymInt> shape(static_cast<size_t>(t.dim()), 1);
    shape[0] = t.size(0);
    return shape;
  }
};

/// S <- exp(g) S; u = beta (v - Sᵀ k); S <- S + k uᵀ; y = K^-0.5 Sᵀ q, head by head. The channels
/// of a token are q, k, v, g, beta of all heads.
class GatedDelta final : public Recurrence {
 public:
  GatedDelta(int64_t heads, int64_t keys, int64_t values) : h_(heads), k_(keys), v_(values) {}
  int64_t width() const { return h_ * (2 * k_ + v_ + 2); }

 protected:
  std::map<std::string, std::vector<int64_t>> shapes() const override {
    return {{"S", {h_, k_, v_}}};
  }
  Tensor step(const Tensor& x, State& state) const override {
    const auto parts = x.unflatten(1, {h_, -1}).split_with_sizes({k_, k_, v_, 1, 1}, 2);
    const Tensor key = parts[1].unsqueeze(-1);
    Tensor s = state.tensors.at("S") * parts[3].clamp_max(2.0).exp().unsqueeze(-1);
    const Tensor u = parts[4] * (parts[2] - (s * key).sum(2));
    s = s + key * u.unsqueeze(2);
    state.tensors["S"] = s;
    const Tensor y = (s * parts[0].unsqueeze(-1)).sum(2) / std::sqrt(static_cast<double>(k_));
    return y.flatten(1);
  }

 private:
  int64_t h_, k_, v_;
};

/// Mamba-2 (Dao & Gu 2024, arXiv 2405.21060) with the parameters of a golden case.
class Mamba2 final : public Recurrence {
 public:
  explicit Mamba2(const GoldenCase& golden)
      : p_(golden.under("param.")),
        conv_(golden.option<int64_t>("d_conv", 4)),
        inner_(golden.option<int64_t>("d_inner", 0)),
        states_(golden.option<int64_t>("d_state", 0)),
        groups_(golden.option<int64_t>("ngroups", 1)),
        head_(golden.option<int64_t>("headdim", 1)),
        norm_(golden.option<bool>("rmsnorm", true)),
        norm_first_(golden.option<bool>("norm_before_gate", false)) {}

 protected:
  std::map<std::string, std::vector<int64_t>> shapes() const override {
    return {{"conv", {inner_ + 2 * groups_ * states_, conv_}},
            {"ssm", {inner_ / head_, head_, states_}}};
  }
  Tensor step(const Tensor& x, State& state) const override {
    const int64_t heads = inner_ / head_, mixed = groups_ * states_;
    const auto parts = at::linear(x, p_.at("in_proj.weight"))
                           .split_with_sizes({inner_, inner_ + 2 * mixed, heads}, 1);
    const Tensor tail = at::cat({state.tensors.at("conv").slice(2, 1), parts[1].unsqueeze(2)}, 2);
    state.tensors["conv"] = tail;
    const Tensor kernel = p_.at("conv1d.weight").view({-1, conv_});
    Tensor c = (tail * kernel).sum(2);
    if (p_.count("conv1d.bias")) c = c + p_.at("conv1d.bias");
    const auto xbc = at::silu(c).split_with_sizes({inner_, mixed, mixed}, 1);
    const auto per_head = [&](const Tensor& t) {
      return t.unflatten(1, {groups_, states_}).repeat_interleave(heads / groups_, 1).unsqueeze(2);
    };
    const Tensor dt = at::softplus(parts[2] + p_.at("dt_bias")).unsqueeze(-1).unsqueeze(-1);
    const Tensor input = xbc[0].unflatten(1, {heads, head_}).unsqueeze(-1);
    const Tensor decay = (-p_.at("A_log").exp().view({-1, 1, 1}) * dt).exp();
    const Tensor s = state.tensors.at("ssm") * decay + dt * input * per_head(xbc[1]);
    state.tensors["ssm"] = s;
    const Tensor y = (s * per_head(xbc[2])).sum(3) + p_.at("D").view({-1, 1}) * input.squeeze(-1);
    return at::linear(gated(y.flatten(1), parts[0]), p_.at("out_proj.weight"));
  }

 private:
  Tensor gated(const Tensor& y, const Tensor& z) const {
    const Tensor gate = at::silu(z);
    if (!norm_) return y * gate;
    const auto scaled = [&](const Tensor& t) {
      return t * (t.square().mean(-1, true) + 1e-5).rsqrt() * p_.at("norm.weight");
    };
    return norm_first_ ? scaled(y) * gate : scaled(y * gate);
  }

  std::map<std::string, Tensor> p_;
  int64_t conv_, inner_, states_, groups_, head_;
  bool norm_, norm_first_;
};

/// What the gated delta rule reads, [B,T,H(2K+V+2)].
Tensor delta_inputs(const GoldenCase& golden) {
  std::vector<Tensor> parts{golden.at("in.q"), golden.at("in.k"), golden.at("in.v"),
                            golden.at("in.g").unsqueeze(-1), golden.at("in.beta").unsqueeze(-1)};
  return at::cat(parts, -1).transpose(1, 2).flatten(2);
}

void check_delta(const GoldenCase& golden) {
  const Tensor valid = golden.at("in.prefill_valid").to(at::kBool);
  const int64_t heads = golden.at("in.q").size(1), keys = golden.at("in.q").size(3);
  const int64_t values = golden.at("in.v").size(3), rows = valid.size(0);
  const int64_t prompt = valid.size(1), steps = golden.at("in.q").size(2) - prompt;
  GatedDelta mixer(heads, keys, values);
  const Tensor x = delta_inputs(golden);
  State state = mixer.make_state(rows, -1, at::kDouble, at::kCPU);
  const Tensor y = feed(mixer, x.narrow(1, 0, prompt), state, valid);
  expect_close("prefill", y.unflatten(2, {heads, values}).transpose(1, 2),
               golden.at("out.gated_delta.prefill_y"));
  EXPECT_TRUE(state.length.equal(golden.at("in.lengths").to(at::kLong)));
  const Tensor known = golden.at("out.gated_delta.state_after_each_step");
  expect_close("after the prefill", state.tensors.at("S"), known.select(1, 0));
  const State start = state.clone();
  for (int64_t s = 0; s < steps; ++s) {
    const Tensor out = feed(mixer, x.narrow(1, prompt + s, 1), state);
    expect_close("step", out.view({rows, heads, values}),
                 golden.at("out.gated_delta.step_y").select(1, s));
    expect_close("state", state.tensors.at("S"), known.select(1, s + 1));
  }
  // A block of all steps of which each row keeps another number.
  for (int64_t kept = 0; kept <= steps; ++kept) {
    State block = start.clone();
    block.begin();
    feed(mixer, x.narrow(1, prompt, steps), block);
    std::vector<int64_t> keep;
    for (int64_t b = 0; b < rows; ++b) keep.push_back((kept + b) % (steps + 1));
    mixer.commit(block, at::tensor(keep));
    for (int64_t b = 0; b < rows; ++b)
      expect_close("kept", block.tensors.at("S")[b], known[b][keep[static_cast<size_t>(b)]]);
  }
}

/// Softmax attention whose maps pick q, k and v (widened to K) out of a token's channels.
std::shared_ptr<Mixer> picking_attention(int64_t heads, int64_t keys, int64_t values) {
  MixerCase what{
      "softmax", {{"qkv_dim", Value(heads * keys)}}, true, heads * (2 * keys + values), heads};
  const auto mixer = what.make();
  for (const Parameter& parameter : mixer->parameters()) parameter.tensor.zero_();
  const auto p = mixer->named_tensors();
  const int64_t each = 2 * keys + values;
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t c = 0; c < keys; ++c) {
      p.at("q_proj.weight")[h * keys + c][h * each + c].fill_(1.0);
      p.at("k_proj.weight")[h * keys + c][h * each + keys + c].fill_(1.0);
    }
    for (int64_t c = 0; c < values; ++c) {
      p.at("v_proj.weight")[h * keys + c][h * each + 2 * keys + c].fill_(1.0);
      p.at("out_proj.weight")[h * values + c][h * keys + c].fill_(1.0);
    }
  }
  return mixer;
}

void check_attention(const GoldenCase& golden) {
  const Tensor valid = golden.at("in.prefill_valid").to(at::kBool);
  const Tensor q = golden.at("in.q"), v = golden.at("in.v");
  const int64_t heads = q.size(1), keys = q.size(3), values = v.size(3), rows = q.size(0);
  const int64_t prompt = valid.size(1), steps = q.size(2) - prompt;
  ASSERT_LE(values, keys) << "this test widens values to keys";
  const auto mixer = picking_attention(heads, keys, values);
  const Tensor x = at::cat({q, golden.at("in.k"), v}, -1).transpose(1, 2).flatten(2);
  State state = mixer->make_state(rows, prompt + steps, at::kDouble);
  feed(*mixer, x.narrow(1, 0, prompt), state, valid);
  const Tensor wanted = golden.at("out.attention.step_y");
  const auto check_steps = [&](int64_t from, const char* what) {
    for (int64_t s = from; s < steps; ++s) {
      const Tensor out = feed(*mixer, x.narrow(1, prompt + s, 1), state);
      expect_close(what, out.squeeze(1).narrow(1, 0, heads * values).unflatten(1, {heads, values}),
                   wanted.select(2, s));
    }
  };
  check_steps(0, "attention step");
  for (int64_t j = 1; j <= steps; ++j) {
    state.crop(at::full({rows}, j, at::kLong));
    check_steps(steps - j, "after a crop");
  }
}

void check_mamba2(const GoldenCase& golden) {
  Mamba2 mixer(golden);
  const Tensor u = golden.at("in.u");
  const int64_t rows = u.size(0), n = u.size(1);
  State state = mixer.make_state(rows, -1, at::kDouble, at::kCPU);
  for (int64_t i = 0; i < n; ++i) {
    // Invalid tokens between the valid ones must leave no trace.
    feed(mixer, u.narrow(1, i, 1) * 3.0, state, at::zeros({rows, 1}, at::kBool));
    const Tensor y = feed(mixer, u.narrow(1, i, 1), state);
    expect_close("y", y.squeeze(1), golden.at("out.y").select(1, i));
    expect_close("conv", state.tensors.at("conv"), golden.at("out.conv_state").select(1, i));
    expect_close("ssm", state.tensors.at("ssm"), golden.at("out.ssm_state").select(1, i));
  }
  expect_close("prefill", run(mixer, u), golden.at("out.y"));
}

TEST(golden, decode_state) {
  const c10::NoGradGuard no_grad;
  for (const GoldenCase& golden : golden_cases("decode_state")) {
    SCOPED_TRACE(golden.file);
    if (golden.has("in.u")) {
      check_mamba2(golden);
    } else {
      check_delta(golden);
      if (golden.has("out.attention.step_y")) check_attention(golden);
    }
  }
}

const TestSource recurrences([] {
  add_test("property.decode_state", "gated_delta", [] {
    GatedDelta mixer(2, 3, 9);
    check_decoding(mixer, mixer.width(), 1e-9);
  });
});

TEST(unit, state_errors) {
  State state("mixer x", Forgetting::append_only, 2, 4);
  state.tensors["key"] = at::zeros({2, 4});
  State other("mixer x", Forgetting::append_only, 2, 8);
  other.tensors["key"] = at::zeros({2, 8});
  expect_refused([&] { State::merge({state, other}); }, "merged");
  expect_refused([&] { state.restore(0, other, 0); }, "same kind");
  expect_refused([&] { state.deserialise(other.serialise()); }, "shape");
  expect_refused([&] { state.deserialise({{"length", at::zeros({2}, at::kLong)}}); }, "key");
  expect_refused([&] { state.deserialise({}); }, "length");
  expect_refused([&] { state.rollback(); }, "begin");
  expect_refused([&] { state.crop(at::ones({2}, at::kLong)); }, "forget");
  expect_refused([&] { state.crop(at::ones({3}, at::kLong)); }, "a row");
  State ring("mixer y", Forgetting::ring, 1, -1, 2);
  ring.advance(5, {});
  expect_refused([&] { ring.crop(at::full({1}, 3, at::kLong)); }, "slack");
  ring.crop(at::full({1}, 2, at::kLong));
  EXPECT_EQ(ring.common_length(), 3);
}

TEST(unit, state_begin_copies_no_append_only_tensors) {
  State state("mixer x", Forgetting::append_only, 1, 4);
  state.tensors["key"] = at::zeros({1, 4});
  const void* place = state.tensors["key"].const_data_ptr();
  state.begin();
  EXPECT_EQ(state.tensors["key"].use_count(), 1u);
  state.rollback();
  EXPECT_EQ(state.tensors["key"].const_data_ptr(), place);
}

}  // namespace
}  // namespace formwork::test

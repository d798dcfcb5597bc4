// The integrators of the wiring sympformer with its mixer: reference numbers and the
// specification's properties of the whole step. tests/methods/mixer/sympformer_test.cpp has those
// of the oracle.
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "methods/oracle.h"
#include "methods/wiring/sympformer_layers.h"
#include "support/golden.h"
#include "support/gradcheck.h"
#include "support/mixers.h"

namespace formwork::test {
namespace {

const std::map<std::string, std::string> kIntegratorOf{
    {"TheoryDampedEulerAttention", "euler"},
    {"TheoryDampedExpEulerAttention", "exp_euler"},
    {"TheoryPlainEulerAttention", "plain_euler"},
    {"TheoryPresymplecticSoftmaxAttention", "presymp"},
    {"TheoryHalfDampStrangAttention", "strang"},
    {"exp_euler", "exp_euler"},
    {"linear_presymp_euler", "presymp_euler"},
    {"linear_ab2", "ab2"},
    {"linear_etd_ab2", "etd_ab2"}};

/// The layers of a reference case with its parameters, and how its names map to ours.
struct GoldenLayers {
  const GoldenCase& golden;
  std::string integrator = kIntegratorOf.at(golden.option<std::string>("variant", ""));
  bool linear = golden.option<std::string>("variant", "").starts_with("linear_");
  bool safe = golden.option<std::string>("causal_force", "") == "query_only";
  int64_t depth = golden.option<int64_t>("L", 1);
  FlowLayers layers{what()};

  double first_time() const {
    const auto found = golden.config.find("t_k");
    if (found == golden.config.end()) return golden.option("t0", 1.0);
    return found->is_array() ? (*found)[0].get<double>() : found->get<double>();
  }

  FlowCase what() const {
    FlowCase all;
    all.width = golden.at("in.x").size(2);
    all.heads = golden.option<int64_t>("H", 1);
    all.layers = depth;
    all.causal = golden.option("causal", false);
    all.norm.set({{"eps", Value(golden.option("ln_eps", 1e-5))}});
    const bool strang = integrator == "strang";
    all.mixer = {{"kernel", Value(linear ? "linear" : "softmax")},
                 {"causal_force", Value(safe ? "query_only" : "as_released")},
                 {"allow_future_leak", Value(true)},
                 {"kernel_norm", Value(safe ? "visible" : "seq_len")},
                 {"force", Value(strang ? "legacy" : "hamiltonian")},
                 {"flow", Value(strang ? "free" : "metric")},
                 {"eps", Value(golden.option("eps", 1e-8))},
                 {"ridge", Value(golden.option("ridge", 1e-6))},
                 {"include_potential", Value(golden.option("include_potential", true))}};
    all.wiring = {{"integrator", Value(integrator)},
                  {"damping", Value(golden.option<std::string>("eta_mode", "loglin"))},
                  {"eta_clip", Value(golden.option("eta_clip", 12.0))},
                  {"t0", Value(golden.option("t0", 1.0))},
                  {"c_log", Value(golden.option("c_log", 3.0))},
                  {"c_lin", Value(golden.option("c_lin", 1e-4))},
                  {"momentum_norm", Value(golden.option<std::string>("momentum_norm", "end"))},
                  {"theta_max", Value(golden.option("theta_max", 1.0))},
                  {"lookahead", Value(golden.option("lookahead", false))}};
    return all;
  }

  /// "param.layer0." where there are several.
  std::string prefix(int64_t layer) const {
    return golden.has("param.q_proj.weight") ? "" : join_text("layer", layer, ".");
  }
  /// A step size that is given as a positive number, where ours is raw.
  std::string given_step(int64_t layer, const std::string& name) const {
    const std::string other = prefix(layer) + name.substr(std::string("theta_").size());
    return name.starts_with("theta_h") && golden.has("param." + other) ? other : "";
  }

  void load() const {
    const c10::NoGradGuard no_grad;
    for (int64_t i = 0; i < depth; ++i)
      for (const auto& [name, tensor] : layers.layers[static_cast<size_t>(i)].parameters()) {
        const std::string step = given_step(i, name);
        if (!step.empty())
          tensor.copy_(FlowLayers::raw(golden.at("param." + step).item<double>()));
        else if (golden.has("param." + prefix(i) + name))
          tensor.copy_(golden.at("param." + prefix(i) + name));
        else
          EXPECT_TRUE(name.starts_with("eta_") && safe) << name;  // given as c_log and c_lin
      }
  }

  void expect_parameter_gradients() const {
    size_t met = 0;
    for (int64_t i = 0; i < depth; ++i)
      for (const auto& [name, tensor] : layers.layers[static_cast<size_t>(i)].parameters()) {
        const std::string step = given_step(i, name);
        const std::string theirs = "grad.param." + (step.empty() ? prefix(i) + name : step);
        if (!golden.has(theirs)) {
          EXPECT_TRUE(name.starts_with("eta_") && safe) << name;
          continue;
        }
        ++met;
        // softplus' slope where the file has the gradient of the step size itself.
        const Tensor slope = step.empty() ? at::ones({}, at::kDouble) : at::sigmoid(tensor);
        expect_close(theirs, tensor.grad(), golden.at(theirs) * slope.detach(), 1e-9);
      }
    EXPECT_EQ(met, golden.under("grad.param.").size()) << "the file has gradients that we lack";
  }
};

TEST(golden, sympformer) {
  int cases = 0;
  for (const GoldenCase& golden : golden_cases("sympformer")) {
    if (golden.has("out.euler.x")) continue;  // golden.sympformer_elliptic_moment_flow
    SCOPED_TRACE(golden.file);
    ++cases;
    const GoldenLayers made{golden};
    made.load();
    const std::string momentum = golden.has("in.p") ? "p" : "y";
    const Tensor x = golden.at("in.x").clone().requires_grad_(true);
    const Tensor p = golden.at("in." + momentum).clone().requires_grad_(true);
    Stream stream;
    stream.x = x;
    stream.carried["momentum"] = p;
    stream.carried["momentum.clock"] = at::scalar_tensor(made.first_time(), at::kDouble);
    for (int64_t i = 0; i < made.depth; ++i) {
      made.layers.layers[static_cast<size_t>(i)].step(stream);
      const std::string layer = join_text("out.layer", i, ".");
      if (!golden.has(layer + "x")) continue;
      expect_close(layer, stream.x, golden.at(layer + "x"));
      expect_close(layer, stream.carried.at("momentum"), golden.at(layer + momentum));
    }
    expect_close("x", stream.x, golden.at("out.x"));
    expect_close("momentum", stream.carried.at("momentum"), golden.at("out." + momentum));
    ((stream.x * golden.at("in.cotangent_x")).sum() +
     (stream.carried.at("momentum") * golden.at("in.cotangent_" + momentum)).sum())
        .backward();
    expect_close("grad.in.x", x.grad(), golden.at("grad.in.x"), 1e-9);
    expect_close("grad.in.p", p.grad(), golden.at("grad.in." + momentum), 1e-9);
    made.expect_parameter_gradients();
  }
  EXPECT_EQ(cases, 9);
}

TEST(golden, sympformer_oracle) {
  int cases = 0;
  for (const GoldenCase& golden : golden_cases("sympformer")) {
    if (!golden.has("out.F")) continue;
    SCOPED_TRACE(golden.file);
    ++cases;
    const GoldenLayers made{golden};
    made.load();
    const Tensor p = golden.at("in.p");
    Tensor x = golden.at("in.x");
    if (golden.option("lookahead", false))
      x = x + at::sigmoid(golden.at("param.mu_lookahead.raw")) * p;
    x = at::layer_norm(x, {x.size(2)}, golden.at("param.norm_x.weight"), {}, 1e-5);
    Oracle call;
    call.p = p;
    Stream stream;
    stream.oracle = &call;
    const Tensor flow = made.layers.layers[0].mixer->forward(x, stream);
    expect_close("F", flow, golden.at("out.F"));
    expect_close("G", call.force, golden.at("out.G"));
    expect_close("z", call.notes.at("z").squeeze(-1), golden.at("out.z"));
  }
  EXPECT_EQ(cases, 3);
}

/// No norms: the oracle sees the positions themselves.
FlowCase bare_case(const char* integrator, double h, Table wiring = {}, Table mixer = {}) {
  FlowCase what;
  what.norm = Choice<Norm>("none");
  what.mixer = std::move(mixer);
  what.wiring = std::move(wiring);
  what.wiring.insert(
      what.wiring.end(),
      {{"integrator", Value(integrator)}, {"h", Value(h)}, {"momentum_norm", Value("none")}});
  return what;
}

TEST(golden, sympformer_elliptic_moment_flow) {
  for (const GoldenCase& golden : golden_cases("sympformer")) {
    if (!golden.has("out.euler.x")) continue;
    FlowCase what = bare_case("euler", golden.option("h", 0.0),
                              {{"damping", Value("log")}, {"c_log", Value(3.0)}},
                              {{"kernel", Value("linear")}});
    what.width = golden.option<int64_t>("D", 0);
    const FlowLayers made(what);
    const c10::NoGradGuard no_grad;
    for (const char* name : {"A", "V"})
      made.layers[0]
          .parameters()
          .at(std::string(name) + ".weight")
          .copy_(golden.at(std::string("param.") + name));
    Stream stream;
    stream.x = golden.at("in.x").unsqueeze(0);
    stream.carried["momentum"] = golden.at("in.y").unsqueeze(0);
    const Tensor start = at::cat({golden.at("in.x"), golden.at("in.y")}, 1);
    for (int64_t i = 0; i < golden.option<int64_t>("steps", 0); ++i) made.layers[0].step(stream);
    const Tensor x = stream.x[0], p = stream.carried.at("momentum")[0];
    expect_close("x", x, golden.at("out.euler.x"));
    expect_close("y", p, golden.at("out.euler.y"));
    // All particles follow one linear map, whatever their law.
    const Tensor end = at::cat({x, p}, 1);
    expect_near("one map", at::matmul(start, golden.at("out.euler.flow_map").t()), end, 1e-12);
    const Tensor moment = at::matmul(end.t(), end) / static_cast<double>(end.size(0));
    expect_close("second moment", moment, golden.at("out.euler.second_moment"));
    return;
  }
  FAIL() << "the reference is missing";
}

// ---- the integrators

const char* const kIntegrators[] = {"plain_euler", "euler",   "exp_euler", "presymp_euler",
                                    "ab2",         "etd_ab2", "presymp",   "strang"};

/// exp_euler beside euler: the difference of the momenta after one step.
double exponential_gap(double h) {
  const Tensor x = random_tensor({1, 6, 12}, 1), p = random_tensor({1, 6, 12}, 2);
  const Table metric{{"metric", Value("free")}};
  const Phase a = FlowLayers(bare_case("exp_euler", h, {}, metric)).run(0.3 * x, p);
  const Phase b = FlowLayers(bare_case("euler", h, {}, metric)).run(0.3 * x, p);
  EXPECT_TRUE(at::equal(a.x, b.x));
  return (a.p - b.p).abs().max().item<double>();
}

TEST(property, sympformer_exponential_euler_tends_to_euler) {
  for (const double h : {1e-2, 1e-3})
    EXPECT_NEAR(exponential_gap(h) / exponential_gap(h / 2), 4.0, 0.1);
}

TEST(property, sympformer_linear_damping_is_exact) {
  // Without positions there is no force: a momentum only decays.
  const double c = 0.7, h = 0.25;
  for (const char* integrator : {"exp_euler", "presymp_euler"}) {
    const FlowLayers layers(bare_case(integrator, h,
                                      {{"damping", Value("linear")}, {"c_lin", Value(c)}},
                                      {{"kernel", Value("linear")}}));
    const Tensor p = random_tensor({1, 5, 12}, 3);
    const Tensor zero = at::zeros_like(p);
    expect_near(integrator, layers.run(zero, p).p, std::exp(-c * h) * p, 1e-14);
  }
}

/// dx = F, dp = G by the classical method of Runge and Kutta in small steps.
Phase exact_flow(const FlowLayers& layers, const Phase& start, double time) {
  const auto slope = [&](const Phase& at) {
    Oracle call;
    call.p = at.p;
    Stream stream;
    stream.oracle = &call;
    const Tensor flow = layers.layers[0].mixer->forward(at.x, stream);
    return Phase{flow, call.force};
  };
  const auto moved = [](const Phase& at, const Phase& by, double h) {
    return Phase{at.x + h * by.x, at.p + h * by.p};
  };
  Phase now = start;
  const int steps = 16;
  const double h = time / steps;
  for (int i = 0; i < steps; ++i) {
    const Phase a = slope(now), b = slope(moved(now, a, h / 2)), c = slope(moved(now, b, h / 2)),
                d = slope(moved(now, c, h));
    now = moved(moved(moved(moved(now, a, h / 6), b, h / 3), c, h / 3), d, h / 6);
  }
  return now;
}

TEST(property, sympformer_doubling_is_of_second_order) {
  const c10::NoGradGuard no_grad;
  const Phase start{0.3 * random_tensor({1, 6, 12}, 4), 0.3 * random_tensor({1, 6, 12}, 5)};
  for (const char* integrator : {"presymp", "strang"}) {
    double last = 0.0;
    for (const double h : {0.1, 0.05, 0.025, 0.0125}) {
      const Table undamped{{"damping", Value("log")}, {"c_log", Value(0.0)}, {"xi", Value(0.5)}};
      const FlowLayers layers(bare_case(integrator, h, undamped, {{"metric", Value("free")}}));
      const Phase end = layers.run(start.x, start.p), exact = exact_flow(layers, start, h);
      const double defect = std::max((end.x - exact.x).abs().max().item<double>(),
                                     (end.p - exact.p).abs().max().item<double>());
      if (last > 0) {
        EXPECT_NEAR(last / defect, 8.0, 0.8) << integrator << " at h " << h;
      }
      last = defect;
    }
  }
}

TEST(property, sympformer_multistep_is_of_second_order) {
  // Without damping, over the same time: halving the step divides the error by about 4.
  const c10::NoGradGuard no_grad;
  const Phase start{0.3 * random_tensor({1, 6, 12}, 4), 0.3 * random_tensor({1, 6, 12}, 5)};
  const auto error = [&](const char* integrator, int64_t steps) {
    FlowCase what =
        bare_case(integrator, 0.4 / static_cast<double>(steps),
                  {{"damping", Value("log")}, {"c_log", Value(0.0)}}, {{"metric", Value("free")}});
    const FlowLayers layers(what);
    Stream stream;
    stream.x = start.x;
    stream.carried["momentum"] = start.p;
    for (int64_t i = 0; i < steps; ++i) layers.layers[0].step(stream);
    const Phase exact = exact_flow(layers, start, 0.4);
    return (stream.x - exact.x).abs().max().item<double>();
  };
  EXPECT_NEAR(error("ab2", 16) / error("ab2", 32), 4.0, 0.6);
  EXPECT_NEAR(error("euler", 16) / error("euler", 32), 2.0, 0.3);
}

TEST(property, sympformer_accelerates) {
  // A > 0, V = -(positive definite), alpha = 3/t, kick first: the energy falls like 1/t² where the
  // first-order flow falls like 1/t.
  const c10::NoGradGuard no_grad;
  const GoldenCase golden = [] {
    for (const GoldenCase& one : golden_cases("sympformer"))
      if (one.has("out.euler.x")) return one;
    return GoldenCase{};
  }();
  const Tensor a = golden.at("param.A"), v = golden.at("param.V");
  const auto energies = [&](bool accelerated) {
    FlowCase what =
        bare_case(accelerated ? "presymp_euler" : "first_order", 0.01,
                  {{"damping", Value("log")}, {"c_log", Value(3.0)}},
                  {{"kernel", Value("linear")}, {"order", Value(int64_t{accelerated ? 2 : 1})}});
    what.width = 4;
    const FlowLayers layers(what);
    for (const auto& [name, value] : std::map<std::string, Tensor>{{"A", a}, {"V", v}})
      layers.layers[0].mixer->named_tensors().at(name + ".weight").copy_(value);
    Stream stream;
    stream.x = golden.at("in.x").unsqueeze(0);
    stream.carried["momentum"] = at::zeros_like(stream.x);
    std::map<int, double> at_time;
    for (int i = 1; i <= 4000; ++i) {
      layers.layers[0].step(stream);
      if (i % 1000 == 0)
        at_time[i / 100] =
            -0.5 * (at::matmul(stream.x, v) * stream.x).sum(-1).mean().item<double>();
    }
    return at_time;
  };
  const auto fast = energies(true), slow = energies(false);
  EXPECT_NEAR(fast.at(20) / fast.at(40), 4.0, 0.8);
  EXPECT_NEAR(slow.at(20) / slow.at(40), 2.0, 0.3);
  EXPECT_LT(fast.at(40), 0.2 * slow.at(40));
}

// ---- what every integrator keeps

FlowCase trained_case(const std::string& integrator, const char* kernel, bool causal,
                      bool ahead = false) {
  FlowCase what;
  what.layers = 2;
  what.causal = causal;
  what.mixer = {{"kernel", Value(kernel)}, {"metric", Value("free")}, {"chunk", Value(int64_t{4})}};
  if (integrator == "strang" && std::string(kernel) == "softmax")
    what.mixer.insert(what.mixer.end(), {{"force", Value("legacy")}, {"flow", Value("free")}});
  what.wiring = {{"integrator", Value(integrator)}, {"h", Value(0.2)}, {"lookahead", Value(ahead)}};
  if (integrator == "presymp") what.wiring.emplace_back("momentum_norm", Value("each_substep"));
  return what;
}

TEST(property, sympformer_never_sees_the_future) {
  const c10::NoGradGuard no_grad;
  for (const char* kernel : {"softmax", "linear"})
    for (const char* integrator : kIntegrators) {
      const FlowLayers layers(trained_case(integrator, kernel, true, true));
      const Tensor x = random_tensor({2, 9, 12}, 6), p = random_tensor({2, 9, 12}, 7);
      const Phase whole = layers.run(x, p);
      for (int64_t j = 1; j < 9; ++j) {
        // A constant shift would not pass the norm.
        Tensor other = x.clone(), push = p.clone();
        other.select(1, j).add_(random_tensor({2, 12}, 8));
        push.select(1, j).add_(random_tensor({2, 12}, 9));
        const Phase changed = layers.run(other, push);
        const auto before = [&](const Tensor& y) { return y.narrow(1, 0, j); };
        const std::string what = join_text(kernel, " ", integrator, " token ", j);
        EXPECT_TRUE(at::equal(before(changed.x), before(whole.x))) << what;
        EXPECT_TRUE(at::equal(before(changed.p), before(whole.p))) << what;
        EXPECT_FALSE(at::equal(changed.x.select(1, j), whole.x.select(1, j))) << what;
        const Phase prefix = layers.run(before(x), before(p));
        expect_near(what.c_str(), prefix.x, before(whole.x), 1e-11);
        expect_near(what.c_str(), prefix.p, before(whole.p), 1e-11);
      }
    }
}

TEST(property, sympformer_leak_is_detected) {
  const c10::NoGradGuard no_grad;
  for (const char* integrator :
       {"plain_euler", "euler", "exp_euler", "ab2", "etd_ab2", "presymp"}) {
    FlowCase what = trained_case(integrator, "softmax", true);
    what.mixer.insert(what.mixer.end(),
                      {{"causal_force", Value("as_released")}, {"allow_future_leak", Value(true)}});
    const FlowLayers layers(what);
    const Tensor x = random_tensor({1, 9, 12}, 6), p = random_tensor({1, 9, 12}, 7);
    Tensor other = x.clone();
    other.select(1, 8).add_(random_tensor({1, 12}, 8));
    const Tensor gap = (layers.run(other, p).p - layers.run(x, p).p).abs().amax(-1);
    EXPECT_GT(gap.narrow(1, 0, 8).min().item<double>(), 1e-6) << integrator;
  }
}

TEST(property, sympformer_has_no_order) {
  const c10::NoGradGuard no_grad;
  const Tensor order = at::randperm(9, generator_of(RandomStream(3)), at::kLong);
  for (const char* kernel : {"softmax", "linear"})
    for (const char* integrator : kIntegrators) {
      const FlowLayers layers(trained_case(integrator, kernel, false));
      const Tensor x = random_tensor({2, 9, 12}, 6), p = random_tensor({2, 9, 12}, 7);
      const Phase straight = layers.run(x, p);
      const Phase permuted = layers.run(x.index_select(1, order), p.index_select(1, order));
      expect_near(integrator, permuted.x, straight.x.index_select(1, order), 1e-10);
      expect_near(integrator, permuted.p, straight.p.index_select(1, order), 1e-10);
    }
}

TEST(property, sympformer_decodes) {
  const c10::NoGradGuard no_grad;
  for (const char* kernel : {"softmax", "linear"})
    for (const char* integrator : kIntegrators) {
      SCOPED_TRACE(std::string(kernel) + " " + integrator);
      const FlowLayers layers(trained_case(integrator, kernel, true, true));
      for (const FlowLayer& layer : layers.layers) layer.mixer->eval();
      const Tensor x = random_tensor({3, 11, 12}, 6), p = random_tensor({3, 11, 12}, 7);
      const Phase whole = layers.run(x, p);
      const auto fresh = [&] {
        std::vector<State> states;
        for (const FlowLayer& layer : layers.layers)
          states.push_back(layer.mixer->make_state(3, 16, at::kDouble));
        return states;
      };
      const auto feed_part = [&](std::vector<State>& states, int64_t from, int64_t n,
                                 const Tensor& valid = {}) {
        return layers.run(x.narrow(1, from, n), p.narrow(1, from, n), valid, &states);
      };
      for (const int64_t first : {1, 4, 10}) {
        std::vector<State> states = fresh();
        std::vector<Tensor> parts{feed_part(states, 0, first).x};
        for (int64_t i = first; i < 11; ++i) parts.push_back(feed_part(states, i, 1).x);
        expect_near("parts", at::cat(parts, 1), whole.x, 1e-11);
        EXPECT_EQ(states[1].common_length(), 11);
      }
      // A speculative block, of which each row keeps another part.
      std::vector<State> states = fresh();
      feed_part(states, 0, 4);
      for (State& state : states) state.begin();
      feed_part(states, 4, 2);
      feed_part(states, 6, 1);
      const Tensor kept = at::tensor({0, 2, 3}, at::kLong);
      for (size_t i = 0; i < states.size(); ++i) layers.layers[i].mixer->commit(states[i], kept);
      for (int64_t b = 0; b < 3; ++b) {
        const int64_t length = 4 + kept[b].item<int64_t>();
        EXPECT_EQ(states[0].length[b].item<int64_t>(), length);
        std::vector<State> row;
        const Tensor index = at::full({3}, b, at::kLong);
        for (const State& state : states) row.push_back(state.select(index));
        const Tensor next = feed_part(row, length, 1).x[b];
        expect_near("after the kept tokens", next, whole.x[b].narrow(0, length, 1), 1e-11);
      }
    }
}

TEST(property, sympformer_padding_does_not_matter) {
  const c10::NoGradGuard no_grad;
  for (const bool causal : {false, true})
    for (const char* kernel : {"softmax", "linear"})
      for (const char* integrator : {"exp_euler", "presymp", "strang"}) {
        const FlowLayers layers(trained_case(integrator, kernel, causal));
        const Tensor x = random_tensor({2, 9, 12}, 6), p = random_tensor({2, 9, 12}, 7);
        const Phase padded = layers.run(x, p, lengths_mask({6, 6}, 9));
        const Phase alone = layers.run(x.narrow(1, 0, 6), p.narrow(1, 0, 6));
        expect_near(integrator, padded.x.narrow(1, 0, 6), alone.x, 1e-11);
        expect_near(integrator, padded.p.narrow(1, 0, 6), alone.p, 1e-11);
      }
}

TEST(property, sympformer_gradients) {
  for (const bool causal : {false, true})
    for (const char* kernel : {"softmax", "linear"})
      for (const char* integrator : kIntegrators) {
        const FlowLayers layers(trained_case(integrator, kernel, causal, true));
        NamedLeaves leaves{{"x", random_leaf({2, 6, 12}, 9)}, {"p", random_leaf({2, 6, 12}, 10)}};
        // Two layers; the clock takes no gradient, so that of a first layer's step size is not the
        // whole derivative.
        for (const auto& [name, tensor] : layers.layers[1].parameters())
          if (tensor.requires_grad()) leaves.emplace_back(name, tensor);
        for (const auto& [name, tensor] : layers.layers[0].parameters())
          if (name != "theta_hX" && name != "theta_h") leaves.emplace_back("0." + name, tensor);
        std::erase_if(leaves, [&](const auto& leaf) {
          const std::string kind = integrator;
          const bool inner_clock = kind == "etd_ab2" || kind == "presymp" || kind == "strang";
          return inner_clock && (leaf.first == "theta_hX" || leaf.first == "theta_h");
        });
        GradientCheck check;
        check.most_entries = 3;
        expect_gradients(
            join_text(kernel, " ", integrator, causal ? " causal" : ""),
            [&] {
              const Phase end = layers.run(leaves[0].second, leaves[1].second);
              return at::cat({end.x, end.p}, 2);
            },
            leaves, check);
      }
}

TEST(property, sympformer_clock_takes_no_gradient) {
  // Two layers: what the first step's size does to the second's time stays out.
  FlowCase what = trained_case("exp_euler", "softmax", false);
  const FlowLayers layers(what);
  Stream stream;
  stream.x = random_tensor({1, 5, 12}, 1);
  layers.layers[0].step(stream);
  EXPECT_FALSE(stream.carried.at("momentum.clock").requires_grad());
  EXPECT_NEAR(stream.carried.at("momentum.clock").item<double>(), 1.2, 1e-12);
}

TEST(unit, sympformer_wiring_options) {
  const auto says = [](Table wiring, const std::string& part) {
    FlowCase what;
    what.wiring = std::move(wiring);
    expect_refused([&] { FlowLayers layers(what); }, part);
  };
  says({{"t0", Value(0.0)}}, "t0");
  says({{"h", Value(-0.1)}}, "h");
  says({{"integrator", Value("leapfrog")}}, "integrator");
  says({{"theta_max", Value(0.0)}}, "theta_max");
  says({{"c_log", Value(-1.0)}}, "c_log");
  says({{"eta_clip", Value(0.0)}}, "eta_clip");
  // The channel's steps.
  Site site = plain_site(12);
  const auto channel = [&](const char* mode, const char* integrator) {
    Choice<Wiring> wiring("sympformer");
    wiring.set({{"mlp_mode", Value(mode)}, {"integrator", Value(integrator)}});
    site.mixer_wiring = nullptr;
    site.mixer_wiring = wiring.make(site);
    wiring.make(site);
  };
  expect_refused([&] { channel("none", "euler"); }, "mlp_mode");
  expect_refused([&] { channel("p_vel", "first_order"); }, "first_order");
  channel("attn_vel", "first_order");
  channel("p_vel", "strang");
  site.mixer_wiring = Choice<Wiring>("pre").make(site);
  expect_refused(
      [&] {
        Choice<Wiring>("sympformer").set({{"mlp_mode", Value("attn_vel")}}).make(site);
      },
      "follows the step");
  site.mixer_wiring = nullptr;
  expect_refused(
      [&] {
        Choice<Wiring>("sympformer").set({{"momentum_init", Value("token_table")}}).make(site);
      },
      "token ids");
}

}  // namespace
}  // namespace formwork::test

// The oracle of the mixer sympformer and the sums below it. The steps of whole layers are tested in
// tests/methods/wiring/sympformer_test.cpp.
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "methods/mixer/hamiltonian_sums.h"
#include "methods/oracle.h"
#include "model/options.h"
#include "support/dynamic.h"
#include "support/gradcheck.h"
#include "support/mixers.h"
#include "support/tiny_model.h"

namespace formwork::test {
namespace {

Table joined(Table options, const Table& more) {
  options.insert(options.end(), more.begin(), more.end());
  return options;
}

MixerCase flow_case(Table options, bool causal = true) {
  return {"sympformer", std::move(options), causal};
}

struct FlowForce {
  Tensor flow, force;
};

FlowForce ask(Mixer& mixer, const Tensor& x, const Tensor& p, const Tensor& valid = {}) {
  Oracle call;
  call.p = p;
  Stream stream;
  stream.valid = valid;
  stream.oracle = &call;
  const Tensor flow = mixer.forward(x, stream);
  return {flow, call.force};
}

// ---- the sums, by N x N matrices

/// E and E without the cut pairs.
std::pair<Tensor, Tensor> plain_weights(const Tensor& x, const Tensor& u, const PairRule& rule) {
  const Tensor scores = at::matmul(x, u.transpose(1, 2));
  Tensor open = at::ones_like(scores);
  if (rule.causal) open = open.tril(u.size(1) - x.size(1));
  if (rule.key_valid.defined()) open = open * rule.key_valid.unsqueeze(1);
  if (rule.allowed.defined()) open = open * rule.allowed;
  const Tensor all = scores.clamp(-kLargestScore, kLargestScore).exp() * open;
  return {all, all * (scores.abs() <= kLargestScore)};
}

std::vector<std::pair<std::string, PairRule>> pair_rules(int64_t n, int64_t keys) {
  const Tensor valid = lengths_mask({keys, keys - 3}, keys);
  const Tensor allowed = at::arange(keys).unsqueeze(0) <= at::arange(n).unsqueeze(1) + (keys - n);
  return {{"all", {}},
          {"causal", {true, {}, {}}},
          {"valid", {false, valid, {}}},
          {"causal and valid", {true, valid, {}}},
          {"allowed", {false, {}, allowed.unsqueeze(0).expand({2, n, keys})}}};
}

TEST(property, sympformer_sums_match_matrices) {
  // 300 keys in a batch of 2 make several tiles; a factor of 6 cuts many scores.
  for (const double factor : {0.3, 6.0})
    for (const int64_t n : {7, 600})
      for (const auto& [name, rule] : pair_rules(n, n)) {
        const Tensor x = factor * random_tensor({2, n, 5}, 1),
                     u = factor * random_tensor({2, n, 5}, 2);
        const Tensor v = random_tensor({2, n, 3}, 3), q = random_tensor({2, n, 1}, 4).abs();
        const Tensor count = at::full({1, 1}, n, at::kDouble);
        const auto [all, free] = plain_weights(x, u, rule);
        for (const CutPairs cut : {CutPairs::dropped, CutPairs::kept}) {
          const ExponentialSums sums = exponential_sums(x, u, v, rule, cut);
          expect_close(name + " total", sums.total, all.sum(-1, true), 1e-12);
          expect_close(name + " y", sums.y, at::matmul(cut == CutPairs::kept ? all : free, v),
                       1e-12);
        }
        const ForceSums sums = force_sums(x, u, q, count, {rule, 0.5, true});
        const Tensor mean = all.mean(-1, true), z = mean.clamp_min(0.5);
        const Tensor s = q / z.square() * (mean > 0.5);
        const Tensor weights = free * (s / static_cast<double>(n) + 1) / 2;
        expect_close(name + " z", sums.z, z, 1e-12);
        expect_close(name + " rows", sums.rows, at::matmul(weights, u), 1e-12);
        expect_close(name + " columns", sums.columns, at::matmul(weights.transpose(1, 2), x),
                     1e-12);
      }
}

TEST(property, sympformer_sums_gradients) {
  for (const double factor : {0.5, 5.0})
    for (const auto& [name, rule] : pair_rules(6, 6)) {
      // Near a cut the difference quotient would see both sides: no score is that near here.
      NamedLeaves leaves{{"x", random_leaf({2, 6, 3}, 1)},
                         {"u", random_leaf({2, 6, 3}, 2)},
                         {"v", random_leaf({2, 6, 4}, 3)},
                         {"q", random_leaf({2, 6, 1}, 4)}};
      GradientCheck check;
      check.step = 1e-6;
      check.relative = 1e-5;
      const auto scaled = [&](size_t i) { return factor * leaves[i].second; };
      for (const CutPairs cut : {CutPairs::dropped, CutPairs::kept})
        expect_gradients(
            name,
            [&] {
              const auto sums = exponential_sums(scaled(0), scaled(1), leaves[2].second, rule, cut);
              return at::cat({sums.total, sums.y}, 2).log1p().nan_to_num();
            },
            {leaves[0], leaves[1], leaves[2]}, check);
      expect_gradients(
          name + " total",
          [&] {
            return exponential_sums(scaled(0), scaled(1), {}, rule, CutPairs::dropped).total.log();
          },
          {leaves[0], leaves[1]}, check);
      const Tensor count = at::arange(1, 7).to(at::kDouble).unsqueeze(-1);
      expect_gradients(
          name + " force",
          [&] {
            const auto sums =
                force_sums(scaled(0), scaled(1), leaves[3].second, count, {rule, 0.05, factor < 1});
            return at::cat({sums.z.log(), sums.rows.asinh(), sums.columns.asinh()}, 2);
          },
          {leaves[0], leaves[1], leaves[3]}, check);
    }
}

TEST(property, sympformer_sums_gradients_by_tiles) {
  // So many pairs that weights are computed again: the gradients are those of the matrices.
  const int64_t n = 750;
  for (const double factor : {0.3, 4.0})
    for (const auto& [name, rule] : pair_rules(n, n)) {
      const auto gradients = [&, rule = rule](bool tiles) {
        const Tensor x = random_leaf({2, n, 4}, 1), u = random_leaf({2, n, 4}, 2);
        const Tensor v = random_leaf({2, n, 3}, 3), q = random_leaf({2, n, 1}, 4);
        const Tensor count = at::full({1, 1}, n, at::kDouble);
        const Tensor a = factor * x, b = factor * u;
        Tensor total, y, z, rows, columns;
        if (tiles) {
          const ExponentialSums sums = exponential_sums(a, b, v, rule, CutPairs::kept);
          total = sums.total, y = sums.y;
          const ForceSums force = force_sums(a, b, q, count, {rule, 0.5, true});
          z = force.z, rows = force.rows, columns = force.columns;
        } else {
          const auto [all, free] = plain_weights(a, b, rule);
          total = all.sum(-1, true), y = at::matmul(all, v);
          const Tensor mean = total / static_cast<double>(n);
          z = mean.clamp_min(0.5);
          const Tensor s = q / z.square() * (mean > 0.5);
          const Tensor weights = free * (s / static_cast<double>(n) + 1) / 2;
          rows = at::matmul(weights, b), columns = at::matmul(weights.transpose(1, 2), a);
        }
        const Tensor loss = (total + 1).log().sum() + y.asinh().sum() + z.log().sum() +
                            rows.asinh().sum() + columns.asinh().sum();
        return torch::autograd::grad({loss}, {x, u, v, q});
      };
      const auto ours = gradients(true), plain = gradients(false);
      for (size_t i = 0; i < ours.size(); ++i) expect_close(name, ours[i], plain[i], 1e-9);
    }
}

// ---- the oracle against the energy it belongs to

struct Maps {
  Tensor a, b;
};

Maps maps_of(Mixer& mixer, double ridge = 1e-6) {
  const auto p = mixer.named_tensors();
  Maps maps;
  maps.a = at::matmul(p.at("q_proj.weight").t(), p.at("k_proj.weight")) / (2 * std::sqrt(6.0));
  if (p.count("metric") > 0) {
    maps.b = p.at("metric");
  } else {
    const Tensor shifted = maps.a + ridge * at::eye(12, at::kDouble);
    maps.b = at::matmul(p.at("v_proj.weight"), at::linalg_inv(shifted));
  }
  maps.b = (0.5 * (maps.b + maps.b.t())).detach();
  maps.a = maps.a.detach();
  return maps;
}

/// Ham = 1/2 sum_i p_iᵀ B p_i / z_i - c/2 sum_ij E_ij.
Tensor energy(const Maps& maps, const Tensor& x, const Tensor& p, bool causal, bool potential) {
  const Tensor scores = at::matmul(at::matmul(x, maps.a), x.transpose(1, 2));
  Tensor weights = scores.clamp(-60, 60).exp();
  if (causal) weights = weights.tril();
  const Tensor z = weights.mean(-1).clamp_min(1e-8);
  const Tensor kinetic = 0.5 * ((at::matmul(p, maps.b) * p).sum(-1) / z).sum();
  return potential ? kinetic - 0.5 * weights.sum() : kinetic;
}

TEST(property, sympformer_is_hamiltons_flow) {
  for (const bool causal : {false, true})
    for (const bool potential : {false, true})
      for (const char* metric : {"theory", "free"})
        for (const double size : {1.0, 6.0}) {  // the larger cuts some scores
          const auto mixer = flow_case({{"causal_force", Value("as_released")},
                                        {"allow_future_leak", Value(true)},
                                        {"kernel_norm", Value("seq_len")},
                                        {"metric", Value(metric)},
                                        {"include_potential", Value(potential)}},
                                       causal)
                                 .make();
          const Tensor x = (size * random_tensor({2, 7, 12}, 1)).requires_grad_(true);
          const Tensor p = random_tensor({2, 7, 12}, 2).requires_grad_(true);
          const FlowForce now = ask(*mixer, x, p);
          const auto slopes =
              torch::autograd::grad({energy(maps_of(*mixer), x, p, causal, potential)}, {p, x});
          expect_close("F", now.flow, slopes[0], 1e-11);
          expect_close("G", now.force, -slopes[1], 1e-11);
        }
}

TEST(property, sympformer_query_force_is_the_query_part) {
  // The derivative by x_i where x_i is the query, earlier tokens held: that of the energy of the
  // kernel's first slot.
  const auto mixer = flow_case({{"metric", Value("free")}}).make();
  const Tensor x = random_tensor({1, 7, 12}, 1), p = random_tensor({1, 7, 12}, 2);
  const Maps maps = maps_of(*mixer);
  const Tensor query = x.clone().requires_grad_(true), count = at::arange(1, 8).to(at::kDouble);
  const Tensor scores = at::matmul(at::matmul(query, maps.a), x.transpose(1, 2));
  const Tensor weights = scores.exp().tril();
  const Tensor z = weights.sum(-1) / count;
  const Tensor kinetic = 0.5 * ((at::matmul(p, maps.b) * p).sum(-1) / z).sum();
  const Tensor slope = torch::autograd::grad({kinetic - 0.5 * weights.sum()}, {query})[0];
  expect_close("G", ask(*mixer, x, p).force, -slope, 1e-11);
}

TEST(property, sympformer_linear_is_hamiltons_flow) {
  // For symmetric A and V: Ham = 1/(2N) sum_ij (x_i A x_j)(p_i·p_j) - 1/2 sum_i x_i V x_i.
  const auto mixer = flow_case({{"kernel", Value("linear")}}, false).make();
  const c10::AutoGradMode with_gradients(true);
  const auto maps = mixer->named_tensors();
  {
    const c10::NoGradGuard no_grad;
    for (const char* name : {"A.weight", "V.weight"}) {
      const Tensor map = maps.at(name);
      map.copy_(0.5 * (map + map.t()));
    }
  }
  const Tensor x = random_leaf({2, 7, 12}, 1), p = random_leaf({2, 7, 12}, 2);
  const Tensor kernel = at::matmul(at::matmul(x, maps.at("A.weight").detach()), x.transpose(1, 2));
  const Tensor energy = (kernel * at::matmul(p, p.transpose(1, 2))).sum() / 14.0 -
                        0.5 * (at::matmul(x, maps.at("V.weight").detach()) * x).sum();
  const auto slopes = torch::autograd::grad({energy}, {p, x});
  const FlowForce now = ask(*mixer, x, p);
  expect_close("F", now.flow, slopes[0], 1e-11);
  expect_close("G", now.force, -slopes[1], 1e-11);
}

TEST(property, sympformer_linear_matches_matrices) {
  for (const int64_t order : {1, 2})
    for (const char* norm : {"visible", "seq_len", "fixed"})
      for (const int64_t chunk : {1, 4, 64}) {
        Table options{{"kernel", Value("linear")},
                      {"order", Value(order)},
                      {"kernel_norm", Value(norm)},
                      {"chunk", Value(chunk)}};
        if (std::string(norm) == "fixed") options.emplace_back("kernel_length", Value(int64_t{5}));
        const auto mixer = flow_case(options).make();
        const auto maps = mixer->named_tensors();
        const Tensor x = random_tensor({2, 11, 12}, 1), p = random_tensor({2, 11, 12}, 2);
        const Tensor mapped = at::matmul(x, maps.at("A.weight").t());
        const Tensor force_x = at::matmul(x, maps.at("V.weight").t());
        const Tensor k = at::matmul(mapped, x.transpose(1, 2)).tril();
        const Tensor r = at::matmul(p, p.transpose(1, 2)).tril();
        const Tensor n =
            std::string(norm) == "visible"
                ? at::arange(1, 12).to(at::kDouble).unsqueeze(-1)
                : at::full({1, 1}, norm == std::string("fixed") ? 5.0 : 11.0, at::kDouble);
        if (order == 1) {
          expect_close("first order", run(*mixer, x), at::matmul(k, force_x) / n, 1e-11);
          continue;
        }
        const FlowForce now = ask(*mixer, x, p);
        expect_close("F", now.flow, at::matmul(k, p) / n, 1e-11);
        expect_close("G", now.force, force_x - at::matmul(r, mapped) / n, 1e-11);
      }
}

TEST(property, sympformer_another_momentum_at_the_same_place) {
  for (const char* kernel : {"softmax", "linear"})
    for (const bool causal : {false, true}) {
      const auto mixer = flow_case({{"kernel", Value(kernel)}}, causal).make();
      const Tensor x = random_tensor({2, 7, 12}, 1), p = random_tensor({2, 7, 12}, 2),
                   q = random_tensor({2, 7, 12}, 3);
      Oracle call;
      Stream stream;
      stream.oracle = &call;
      call.p = p;
      call.want_flow = false;
      EXPECT_FALSE(mixer->forward(x, stream).defined());
      expect_near("force", call.force, ask(*mixer, x, p).force, 1e-13);
      call.p = q;
      call.want_flow = true;
      call.want_force = false;
      call.call = 1;
      expect_near("flow", mixer->forward(x, stream), ask(*mixer, x, q).flow, 1e-12);
      EXPECT_FALSE(call.force.defined());
    }
}

// ---- decoding

/// The oracle as a mixer of positions and momenta side by side: [x, p] → [F, G].
class SideBySide final : public Mixer {
 public:
  explicit SideBySide(std::shared_ptr<Mixer> inner) : inner_(add_module("", std::move(inner))) {}
  Tensor forward(const Tensor& both, Stream& stream, State* state) override {
    const int64_t width = both.size(2) / 2;
    Oracle call;
    call.p = both.narrow(2, width, width);
    stream.oracle = &call;
    const Tensor flow = inner_->forward(both.narrow(2, 0, width), stream, state);
    stream.oracle = nullptr;
    return at::cat({flow, call.force}, 2);
  }
  State make_state(int64_t batch, int64_t capacity, at::ScalarType type,
                   const at::Device& device) const override {
    return inner_->make_state(batch, capacity, type, device);
  }

 private:
  std::shared_ptr<Mixer> inner_;
};

const TestSource sympformer_decoding([] {
  const Table free{{"metric", Value("free")}};
  const std::vector<std::pair<std::string, Table>> cases{
      {"softmax", free},
      {"fixed",
       joined(free, {{"kernel_norm", Value("fixed")}, {"kernel_length", Value(int64_t{9})}})},
      {"legacy", {{"force", Value("legacy")}, {"flow", Value("free")}}},
      {"linear", {{"kernel", Value("linear")}, {"chunk", Value(int64_t{4})}}}};
  for (const auto& [name, options] : cases)
    add_test("property.decode_state", "sympformer_" + name, [options = options] {
      SideBySide both(flow_case(options).make());
      check_decoding(both, 24, 1e-11);
    });
  add_test("property.decode_state", "sympformer_first_order", [] {
    const MixerCase first = flow_case(
        {{"kernel", Value("linear")}, {"order", Value(int64_t{1})}, {"chunk", Value(int64_t{4})}});
    check_decoding(*first.make(), 12, 1e-11);
  });
});

TEST(property, sympformer_keeps_its_matrices_in_inference) {
  const auto mixer = flow_case({}).make();
  const Tensor x = random_tensor({1, 5, 12}, 1), p = random_tensor({1, 5, 12}, 2);
  mixer->eval();
  const c10::NoGradGuard no_grad;
  const FlowForce before = ask(*mixer, x, p);
  expect_same_bits("again", ask(*mixer, x, p).flow, before.flow);
  // A changed weight must be seen, whichever it is.
  for (const char* name : {"q_proj.weight", "k_proj.weight", "v_proj.weight"}) {
    const FlowForce old = ask(*mixer, x, p);
    Tensor(mixer->named_tensors().at(name)).mul_(1.5);
    const FlowForce now = ask(*mixer, x, p);
    EXPECT_FALSE(at::equal(now.flow, old.flow)) << name;
    mixer->train();
    expect_same_bits(name, ask(*mixer, x, p).flow, now.flow);
    mixer->eval();
  }
}

TEST(property, sympformer_legacy_flow_starts) {
  const auto matrix = [](const char* flow) {
    return flow_case({{"flow", Value(flow)}}).make()->named_tensors().at("c_B.weight");
  };
  EXPECT_TRUE(at::equal(matrix("free"), at::eye(12, at::kDouble)));
  EXPECT_NEAR(matrix("as_released").std().item<double>(), 0.02, 0.004);
  EXPECT_NEAR(matrix("as_released").mean().item<double>(), 0.0, 0.006);
}

TEST(unit, sympformer_options) {
  const auto says = [](Table options, const std::string& part, bool causal = true) {
    expect_refused([&] { flow_case(options, causal).make(); }, part);
  };
  says({{"causal_force", Value("as_released")}}, "causal_force = as_released on a causal task");
  says({{"order", Value(int64_t{1})}}, "order");
  says({{"kernel", Value("gauss")}}, "kernel");
  says({{"eps", Value(0.0)}}, "eps");
  says({{"ridge", Value(-1.0)}}, "ridge");
  says({{"kernel_length", Value(int64_t{4})}}, "kernel_norm fixed");
  says({{"kernel_norm", Value("fixed")}}, "kernel_length");
  flow_case({{"causal_force", Value("as_released")}}, false).make();
  const auto keeps = [](Table options, const std::string& part) {
    expect_refused([&] { flow_case(options).make()->make_state(1, 8, at::kDouble); }, part);
  };
  keeps({{"kernel_norm", Value("seq_len")}}, "seq_len");
  keeps({{"kernel", Value("linear")}, {"kernel_norm", Value("seq_len")}}, "seq_len");
  keeps({{"causal_force", Value("as_released")}, {"allow_future_leak", Value(true)}}, "query_only");
  const auto mixer = flow_case({}).make();
  expect_refused([&] { run(*mixer, random_tensor({1, 4, 12}, 1)); }, "momentum stream requires");
}

TEST(unit, sympformer_needs_a_wiring_with_momentum) {
  const TaskForm task = token_task("decoder");
  const auto refused = [&](const std::function<void(ModelOptions&)>& change,
                           const std::string& part) {
    expect_refused(
        [&] {
          ModelOptions options;
          options.position.select("none", "position");
          change(options);
          Value given{Table{}};
          for (const char* key : {"stem", "mixer", "wiring"}) given[key] = Value("kept");
          options.settle(given, task);
          validate(options, task);
        },
        part);
  };
  refused([](ModelOptions& o) { o.every_layer.mixer.select("sympformer", "mixer"); },
          "momentum stream requires a stack with auxiliary state; valid wirings: sympformer");
  refused([](ModelOptions& o) { o.every_layer.wiring.select("sympformer", "wiring"); },
          "valid: sympformer");
  refused(
      [](ModelOptions& o) {
        o.every_layer.mixer =
            Choice<Mixer>("sympformer").set({{"causal_force", Value("as_released")}});
        o.every_layer.wiring.select("sympformer", "wiring");
      },
      "allow_future_leak");
  // Where the recipe names one of them, the other follows.
  const ModelOptions mixer = tiny_options(
      task, [](ModelOptions& o) { o.every_layer.mixer.select("sympformer", "mixer"); });
  EXPECT_EQ(mixer.every_layer.wiring.kind(), "sympformer");
  const ModelOptions wiring = tiny_options(
      task, [](ModelOptions& o) { o.every_layer.wiring.select("sympformer", "wiring"); });
  EXPECT_EQ(wiring.every_layer.mixer.kind(), "sympformer");
}

}  // namespace
}  // namespace formwork::test

// Attention over complex queries and keys: specification complexformer.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <numbers>

#include "methods/mixer/complex_pairs.h"
#include "methods/mixer/observed.h"
#include "support/dynamic.h"
#include "support/gradcheck.h"
#include "support/mixers.h"
#include "support/refusal.h"
#include "support/tiny_model.h"

namespace formwork::test {
namespace {

void set(Mixer& mixer, const std::string& name, double value) {
  const c10::NoGradGuard no_grad;
  Tensor(mixer.named_tensors().at(name)).fill_(value);
}

void check_case(const GoldenCase& golden, const char* implementation) {
  SCOPED_TRACE(implementation);
  MixerCase what{"complexformer", {}};
  what.width = golden.at("in.x").size(2);
  what.heads = golden.option<int64_t>("H", 1);
  what.causal = golden.option<bool>("causal", true);
  const int64_t rows = golden.at("param.q_proj.weight").size(0);
  const int64_t key_rows = golden.at("param.k_proj.weight").size(0);
  what.options = {{"implementation", Value(implementation)},
                  {"base", Value(golden.option<double>("base", 10000.0))},
                  {"magnitude_eps", Value(golden.option<double>("magnitude_eps", 1e-9))},
                  {"phase_eps", Value(golden.option<double>("phase_eps", 0.0))},
                  {"scale", Value(golden.option<double>("scale", 1.0))},
                  {"position", Value(golden.option<bool>("position", true))},
                  {"qk_norm", Value(golden.has("param.q_norm.weight"))},
                  {"qkv_dim", Value(rows)},
                  {"kv_heads", Value(what.heads * key_rows / rows)}};
  expect_golden(*what.make(), golden);
}

TEST(golden, complexformer) {
  for (const GoldenCase& golden : golden_cases("complexformer")) {
    SCOPED_TRACE(golden.file);
    for (const char* implementation : {"separable", "pairwise"}) check_case(golden, implementation);
  }
}

TEST(property, complexformer_separable_equals_pairwise) {
  const c10::NoGradGuard no_grad;
  const Tensor x = random_tensor({2, 9, 16}, 1), valid = lengths_mask({9, 4}, 9);
  for (const bool causal : {false, true}) {
    for (const Table& more : std::vector<Table>{{},
                                                {{"kv_heads", Value(int64_t{2})}},
                                                {{"qk_norm", Value(true)}},
                                                {{"position", Value(false)}, {"scale", Value(0.3)}},
                                                {{"base", Value(50.0)}}}) {
      MixerCase what{"complexformer", more, causal, 16, 4};
      const auto separable = what.make();
      what.options.emplace_back("implementation", Value("pairwise"));
      const auto pairwise = what.make();
      expect_near("y", run(*separable, x), run(*pairwise, x));
      expect_near("padded", run(*separable, x, valid), run(*pairwise, x, valid));
    }
  }
}

TEST(property, complexformer_with_whole_phases_is_rotary) {
  const c10::NoGradGuard no_grad;
  const Tensor x = random_tensor({2, 9, 12}, 2);
  for (const bool learned : {true, false}) {
    const auto mixer = MixerCase{
        "complexformer",
        {{"delta_init", Value("one")},
         {"learn_delta", Value(learned)},
         {"magnitude_eps",
          Value(0.0)}}}.make();
    set(*mixer, "phase_bias", 0.0);
    MixerCase rotary{"softmax", {{"scale", Value(1.0)}}};
    rotary.position = "rotary";
    expect_near("rotary", run(*mixer, x), run(*rotary.make(), x));
  }
}

TEST(property, complexformer_fixed_whole_phases_need_no_trigonometry) {
  // Pairs of zeros and on the negative axis too, with and without what is added to magnitudes.
  Tensor x = random_tensor({2, 3, 5, 8}, 3);
  x[0][0].fill_(0.0);
  x[1][1].narrow(-1, 4, 4).fill_(0.0);
  const Tensor shift = random_tensor({1, 3, 5, 4}, 4), ones = at::ones({3, 1, 4}, at::kDouble);
  for (const double eps : {0.0, 1e-9, 0.5}) {
    const Tensor a = x.clone().requires_grad_(true), b = x.clone().requires_grad_(true);
    const Tensor quick = turn_pairs(a, shift, {eps, 0.0});
    const Tensor whole = turn_phases(b, ones, shift, {eps, 0.0});
    expect_near("values", quick, whole);
    const Tensor cotangent = random_tensor(x.sizes(), 5);
    (quick * cotangent).sum().backward();
    (whole * cotangent).sum().backward();
    // At (0, 0) a rotation has a gradient, a phase has none.
    const Tensor away =
        (x.narrow(-1, 0, 4).square() + x.narrow(-1, 4, 4).square() > 0).repeat({1, 1, 1, 2});
    expect_near("gradients", a.grad() * away, b.grad() * away, 1e-9);
    EXPECT_TRUE(a.grad().isfinite().all().item<bool>());
  }
}

TEST(property, complexformer_scores_know_differences_of_positions_only) {
  const Tensor x = random_tensor({2, 7, 12}, 6);
  for (const char* implementation : {"separable", "pairwise"}) {
    const auto mixer =
        MixerCase{"complexformer", {{"implementation", Value(implementation)}}, false}.make();
    const Tensor scores = observed(*mixer, x, "scores");
    for (const int64_t first : {1, 1000, 123456})
      expect_near("later", observed(*mixer, x, "scores", first), scores, 1e-9);
  }
  // float32 at a late position, where the angle is hundreds of thousands of radians.
  const auto mixer = MixerCase{"complexformer", {}, false}.make();
  mixer->to(at::kFloat);
  const Tensor small = x.to(at::kFloat), scores = observed(*mixer, small, "scores");
  expect_near("float32", observed(*mixer, small, "scores", 123456), scores, 1e-4);
}

/// The pairs of every head's channels turned by `by` radians: rows of a map's weight.
Tensor turned_rows(const Tensor& weight, int64_t heads, double by) {
  const Tensor rows = weight.unflatten(0, {heads, 2, -1});
  const Tensor r = rows.select(1, 0), s = rows.select(1, 1);
  return at::stack({r * std::cos(by) - s * std::sin(by), r * std::sin(by) + s * std::cos(by)}, 1)
      .flatten(0, 2);
}

TEST(property, complexformer_without_phases) {
  const c10::NoGradGuard no_grad;
  const Tensor x = random_tensor({2, 6, 12}, 7);
  const auto mixer = MixerCase{"complexformer", {}, false}.make();
  const auto p = mixer->named_tensors();
  for (const double delta : {0.0, 0.4}) {
    set(*mixer, "delta", delta);
    const Tensor before = observed(*mixer, x, "scores");
    const Tensor query = p.at("q_proj.weight"), old = query.clone();
    Tensor(query).copy_(turned_rows(old, 2, 0.9));
    EXPECT_EQ(at::allclose(observed(*mixer, x, "scores"), before, 0.0, 1e-12), delta == 0.0);
    Tensor(query).copy_(old);
  }
  // sum |q| |k| cos(b + (m - n) g): not symmetric in m and n, even where q = k.
  set(*mixer, "delta", 0.0);
  set(*mixer, "phase_bias", 0.7);
  Tensor(p.at("k_proj.weight")).copy_(p.at("q_proj.weight"));
  const Tensor q = at::linear(x, p.at("q_proj.weight")).unflatten(2, {2, 2, 3}).square().sum(3);
  const Tensor size = (q + 1e-9).sqrt().permute({0, 2, 1, 3});  // [B,H,N,3]
  const Tensor g = at::pow(10000.0, at::arange(3, at::kDouble) / -3.0);
  const Tensor distance = at::arange(6, at::kDouble).unsqueeze(1) - at::arange(6, at::kDouble);
  const Tensor cosines = (0.7 + distance.unsqueeze(-1) * g).cos();
  const Tensor expected = (size.unsqueeze(3) * size.unsqueeze(2) * cosines).sum(-1);
  const Tensor scores = observed(*mixer, x, "scores");
  expect_near("by definition", scores, expected);
  EXPECT_GT((scores - scores.transpose(2, 3)).abs().max().item<double>(), 0.1);
}

TEST(property, complexformer_phase_cut) {
  // The score jumps where a key's pair crosses the negative real axis, unless delta is an integer.
  const auto turned = [](double angle, double delta) {
    const Tensor x = at::tensor({std::cos(angle), std::sin(angle)}, at::kDouble).view({1, 1, 1, 2});
    const Tensor none = at::zeros({1, 1, 1, 1}, at::kDouble);
    return turn_phases(x, none + delta, none, {}).flatten();
  };
  const double pi = std::numbers::pi;
  for (const double delta : {0.5, 1.0, 2.0})
    EXPECT_NEAR((turned(pi - 1e-9, delta) - turned(-pi + 1e-9, delta)).norm().item<double>(),
                delta == 0.5 ? 2.0 : 0.0, 1e-6);
}

TEST(property, complexformer_map_gradients) {
  for (const double eps : {0.0, 1e-9, 0.3}) {
    const Tensor x = random_leaf({2, 3, 4, 6}, 8), delta = random_leaf({3, 1, 3}, 9);
    const Tensor shift = random_leaf({1, 3, 4, 3}, 10), small = random_leaf({1, 1, 4, 3}, 11);
    const auto y = [&] { return turn_phases(x, delta, shift + small, {eps, 0.0}); };
    expect_gradients("turn_phases", y,
                     {{"x", x}, {"delta", delta}, {"shift", shift}, {"small", small}});
    expect_near("reference", y(), turn_phases_reference(x, delta, shift + small, {eps, 0.0}));
    // The gradient's own gradient.
    const auto twice = [&] {
      const auto first =
          torch::autograd::grad({(y() * y().detach().cos()).sum()}, {x, delta}, {}, true, true);
      return at::cat({first[0].flatten(), first[1].flatten()});
    };
    const Tensor once = twice();
    const auto by_reference = [&] {
      const Tensor out = turn_phases_reference(x, delta, shift + small, {eps, 0.0});
      const auto first =
          torch::autograd::grad({(out * out.detach().cos()).sum()}, {x, delta}, {}, true, true);
      return at::cat({first[0].flatten(), first[1].flatten()});
    };
    expect_near("first", once, by_reference(), 1e-10);
    const Tensor cotangent = random_tensor(once.sizes(), 12);
    const auto second = torch::autograd::grad({(once * cotangent).sum()}, {x, delta});
    const auto wanted = torch::autograd::grad({(by_reference() * cotangent).sum()}, {x, delta});
    expect_near("second, x", second[0], wanted[0], 1e-7);
    expect_near("second, delta", second[1], wanted[1], 1e-7);
  }
}

TEST(property, complexformer_gradients_at_zero) {
  for (const double eps : {0.0, 1e-9}) {
    const Tensor x = at::zeros({1, 2, 3, 4}, at::kDouble).requires_grad_(true);
    const Tensor delta = at::full({2, 1, 2}, 0.5, at::kDouble).requires_grad_(true);
    turn_phases(x, delta, at::ones({1, 1, 3, 2}, at::kDouble), {eps, 0.0}).sum().backward();
    EXPECT_EQ(x.grad().abs().max().item<double>(), 0.0);
    EXPECT_EQ(delta.grad().abs().max().item<double>(), 0.0);
  }
  // What is added to the square keeps a short pair's gradient small, and changes nothing else.
  const auto gradient = [](double phase_eps) {
    const Tensor x = at::full({1, 1, 1, 2}, 1e-6, at::kDouble).requires_grad_(true);
    const Tensor half = at::full({1, 1, 1}, 0.5, at::kDouble);
    const Tensor y = turn_phases(x, half, at::zeros({1, 1, 1, 1}, at::kDouble), {1e-2, phase_eps});
    y.sum().backward();
    return x.grad().abs().max().item<double>();
  };
  EXPECT_GT(gradient(0.0), 1e3);
  EXPECT_LT(gradient(1e-3), 1.0);
}

TEST(property, complexformer_parameters) {
  const auto names = [](const Table& options) {
    std::map<std::string, Role> found;
    const auto mixer = MixerCase{"complexformer", options, true, 16, 4}.make();
    for (const Parameter& parameter : mixer->parameters()) found[parameter.name] = parameter.role;
    return found;
  };
  EXPECT_EQ(names({}).at("delta"), Role::position);
  EXPECT_EQ(names({}).at("phase_bias"), Role::bias);
  const auto fixed = names({{"learn_delta", Value(false)}, {"learn_bias", Value(false)}});
  EXPECT_EQ(fixed.count("delta") + fixed.count("phase_bias"), 0);
  EXPECT_EQ(fixed.size(), 4);
  Site site = plain_site(64, 2);
  const auto normal = Choice<Mixer>("complexformer").make(site)->named_tensors();
  EXPECT_NEAR(normal.at("delta").std().item<double>(), 0.25, 0.09);
  EXPECT_EQ(normal.at("phase_bias").abs().max().item<double>(), 0.0);
  const auto grouped =
      Choice<Mixer>("complexformer").set({{"kv_heads", Value(int64_t{1})}}).make(site);
  EXPECT_EQ(grouped->named_tensors().at("delta").sizes(), at::IntArrayRef({1, 16}));
  EXPECT_EQ(grouped->named_tensors().at("phase_bias").sizes(), at::IntArrayRef({2, 16}));
}

TEST(property, complexformer_refusals) {
  expect_refused([] { MixerCase{"complexformer", {}, true, 12, 4}.make(); }, "even");
  expect_refused([] { MixerCase{"complexformer", {{"base", Value(0.0)}}}.make(); }, "base");
  expect_refused(
      [] {
        MixerCase{"complexformer", {{"kv_heads", Value(int64_t{5})}}}.make();
      },
      "kv_heads");
  MixerCase across{"complexformer", {}};
  across.cross = true;
  expect_refused([&] { across.make(); }, "another sequence");
  const TaskForm task = token_task("decoder");
  for (const char* position : {"rotary", "alibi", "t5_relative"}) {
    const ModelOptions second = tiny_options(task, [&](ModelOptions& o) {
      o.every_layer.mixer.select("complexformer", "mixer");
      o.position.select(position, "position");
    });
    expect_error([&] { validate(second, task); }, Fault::request, {position, "complexformer"});
  }
}

const TestSource complexformer_decoding([] {
  const std::vector<std::pair<std::string, Table>> all{
      {"separable", {}},
      {"pairwise", {{"implementation", Value("pairwise")}, {"kv_heads", Value(int64_t{1})}}},
      {"grouped", {{"kv_heads", Value(int64_t{1})}, {"qk_norm", Value(true)}}},
      {"fixed", {{"delta_init", Value("one")}, {"learn_delta", Value(false)}}},
  };
  for (const auto& [name, options] : all) {
    const MixerCase what{"complexformer", options};
    add_test("property.decode_state", "complexformer_" + name,
             [what] { check_decoding(*what.make(), what.width, 1e-11); });
  }
});

}  // namespace
}  // namespace formwork::test

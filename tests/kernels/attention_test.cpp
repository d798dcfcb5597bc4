#include "kernels/attention.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "core/error.h"
#include "kernels/simd_levels.h"
#include "methods/module.h"

namespace formwork {
namespace {

struct Case {
  int64_t batch, heads, kv_heads, queries, keys, width, value_width;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.batch << "x" << c.heads << "/" << c.kv_heads << "x" << c.queries << "/" << c.keys
             << "x" << c.width << "/" << c.value_width;
}

// Sizes around the tiles' edges (64 queries and keys, 16 channels, 6 and 12 rows at once), single
// tokens, more keys than queries and fewer, shared heads, values of another width, one head whose
// queries threads share.
const Case kCases[] = {
    {2, 2, 2, 64, 64, 32, 32},   {1, 3, 3, 1, 1, 8, 8},       {2, 2, 1, 65, 65, 16, 16},
    {2, 4, 2, 130, 130, 40, 24}, {2, 1, 1, 17, 200, 64, 64},  {1, 2, 2, 63, 129, 20, 20},
    {3, 2, 2, 7, 5, 5, 3},       {1, 6, 3, 100, 100, 72, 72}, {1, 1, 1, 40, 20, 12, 12},
    {2, 2, 2, 96, 70, 33, 17},   {1, 1, 1, 330, 330, 20, 20}, {1, 2, 1, 200, 140, 32, 16}};

/// One thing that a rule can say.
struct Feature {
  const char* name;
  void (*add)(const Case& c, const RandomStream& random, AttentionRule& rule);
};

const Feature kFeatures[] = {
    {"nothing", [](const Case&, const RandomStream&, AttentionRule&) {}},
    {"causal", [](const Case&, const RandomStream&, AttentionRule& rule) { rule.causal = true; }},
    {"padded",
     [](const Case& c, const RandomStream& random, AttentionRule& rule) {
       rule.key_valid = uniform_tensor({c.batch, c.keys}, 0, 1, random.child("valid")) > 0.4;
       if (c.batch > 1) rule.key_valid[0].fill_(false);  // queries without any key
     }},
    {"looking back",
     [](const Case& c, const RandomStream&, AttentionRule& rule) { rule.back = c.keys / 3; }},
    {"looking ahead",  // some queries see no key, some tiles are closed
     [](const Case&, const RandomStream&, AttentionRule& rule) {
       rule.back = -3;
       rule.ahead = 9;
     }},
    {"bias",
     [](const Case& c, const RandomStream& random, AttentionRule& rule) {
       rule.bias = normal_tensor({c.batch, c.heads, c.queries, c.keys}, 1, random.child("bias"));
     }},
    {"shared bias",
     [](const Case& c, const RandomStream& random, AttentionRule& rule) {
       rule.bias =
           normal_tensor({1, 1, c.keys, c.queries}, 1, random.child("shared")).transpose(2, 3);
     }},
    {"bias of a head",
     [](const Case& c, const RandomStream& random, AttentionRule& rule) {
       rule.bias = normal_tensor({1, c.heads, c.queries, c.keys}, 1, random.child("head"));
     }},
    {"offset bias",
     [](const Case& c, const RandomStream& random, AttentionRule& rule) {
       rule.offset_bias =
           normal_tensor({c.heads, c.queries + c.keys - 1}, 1, random.child("offsets"));
     }},
    {"shared offset bias",
     [](const Case& c, const RandomStream& random, AttentionRule& rule) {
       rule.offset_bias = normal_tensor({1, c.queries + c.keys - 1}, 1, random.child("offset"));
     }},
    {"blocks",
     [](const Case& c, const RandomStream& random, AttentionRule& rule) {
       rule.block = 32;
       rule.open_blocks = uniform_tensor({c.heads, (c.queries + 31) / 32, (c.keys + 31) / 32}, 0, 1,
                                         random.child("blocks")) > 0.5;
     }},
    {"blocks of odd sizes",
     [](const Case& c, const RandomStream& random, AttentionRule& rule) {
       rule.block = 21;
       rule.open_blocks = uniform_tensor({1, (c.queries + 20) / 21, (c.keys + 20) / 21}, 0, 1,
                                         random.child("odd blocks")) > 0.5;
     }},
    {"rotary",
     [](const Case& c, const RandomStream& random, AttentionRule& rule) {
       const Tensor angles =
           uniform_tensor({c.batch, 1, c.keys, c.width / 2}, -3, 3, random.child("angles"));
       rule.cosine = angles.cos();
       rule.sine = angles.sin();
     }},
    {"rotary of neighbours", [](const Case& c, const RandomStream& random, AttentionRule& rule) {
       const Tensor angles =
           uniform_tensor({c.keys, c.width / 4}, -3, 3, random.child("fewer angles"));
       rule.cosine = angles.cos();
       rule.sine = angles.sin();
       rule.pairing = Pairing::interleaved;
     }}};

struct Inputs {
  Tensor q, k, v, gradient, log_sum_gradient;
  AttentionRule rule;
};

Inputs inputs_of(const Case& c, std::initializer_list<const Feature*> features = {}) {
  const RandomStream random(1);
  // Heads inside rows, as projections leave them: not contiguous as [B,H,N,K].
  const auto draw = [&](int64_t h, int64_t n, int64_t w, const char* name) {
    return normal_tensor({c.batch, n, h, w}, 1.5, random.child(name)).transpose(1, 2);
  };
  Inputs in;
  in.q = draw(c.heads, c.queries, c.width, "q");
  in.k = draw(c.kv_heads, c.keys, c.width, "k");
  in.v = draw(c.kv_heads, c.keys, c.value_width, "v");
  in.gradient = draw(c.heads, c.queries, c.value_width, "gradient");
  in.log_sum_gradient = normal_tensor({c.batch, c.heads, c.queries}, 1, random.child("log-sum"));
  in.rule.scale = 1.0 / std::sqrt(static_cast<double>(c.width));
  for (const Feature* feature : features) feature->add(c, random, in.rule);
  return in;
}

/// Rotary needs a place for every query.
bool possible(const Case& c, const Feature& feature) {
  return c.queries <= c.keys || !std::string(feature.name).starts_with("rotary");
}

/// Everything that has numbers, by name; what is undefined is left out.
using Results = std::vector<std::pair<const char*, Tensor>>;

/// Outputs and gradients, computed in `type` from inputs that `rounded` can hold.
template <class Function>
Results results_of(const Inputs& in, at::ScalarType type, at::ScalarType rounded,
                   Function function) {
  const auto leaf = [&](const Tensor& x) {
    return x.defined() ? x.to(rounded).to(type).detach().requires_grad_() : x;
  };
  const Tensor q = leaf(in.q), k = leaf(in.k), v = leaf(in.v);
  AttentionRule rule = in.rule;
  rule.bias = leaf(rule.bias);
  rule.offset_bias = leaf(rule.offset_bias);
  const AttentionResult result = function(q, k, v, rule);
  // Without a key there is no slope.
  const Tensor log_sum = result.log_sum_exp.masked_fill(at::isinf(result.log_sum_exp), 0.0);
  torch::autograd::backward({result.out, log_sum}, {in.gradient.to(rounded).to(type),
                                                    in.log_sum_gradient.to(log_sum.scalar_type())});
  Results results{{"out", result.out.detach()},
                  {"the log-sum", log_sum.detach()},
                  {"the gradient of q", q.grad()},
                  {"the gradient of k", k.grad()},
                  {"the gradient of v", v.grad()}};
  if (rule.bias.defined()) results.emplace_back("the gradient of the bias", rule.bias.grad());
  if (rule.offset_bias.defined())
    results.emplace_back("the gradient of the offset bias", rule.offset_bias.grad());
  return results;
}

/// Relative to the largest number, or to `terms`, the size of what cancels: a single key has no
/// gradient.
double error_of(const Tensor& found, const Tensor& expected, double terms = 1.0) {
  const double size = std::max(expected.abs().max().item<double>(), terms);
  return (found.to(at::kDouble) - expected).abs().max().item<double>() / size;
}

void expect_float64(const Case& c, std::initializer_list<const Feature*> features) {
  for (const Feature* feature : features)
    if (!possible(c, *feature)) return;
  const Inputs in = inputs_of(c, features);
  for (const auto& [type, limit] : {std::pair(at::kFloat, 2e-6), std::pair(at::kBFloat16, 1e-2)}) {
    // The backward pass multiplies outputs that bfloat16 rounded with their gradients, both of size
    // 1.5: what cancels in the gradients of scores, of queries and keys then, has this size.
    const double cancelling =
        type == at::kFloat ? 1.0 : 2.25 * std::sqrt(static_cast<double>(c.value_width));
    const Results expected = results_of(in, at::kDouble, type, attention_with_log_sum_reference);
    const Results found = results_of(in, type, type, attention_with_log_sum);
    EXPECT_EQ(found[0].second.scalar_type(), type);
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i)
      EXPECT_LT(error_of(found[i].second, expected[i].second, i == 2 || i == 3 ? cancelling : 1.0),
                limit)
          << c << " " << (*features.begin())->name << " and " << (*(features.end() - 1))->name
          << ": " << found[i].first << " " << type;
  }
}

TEST(property, attention_equals_float64) {
  for (const Case& c : kCases)
    for (const Feature& feature : kFeatures) expect_float64(c, {&feature});
}

TEST(property, attention_by_pairs_of_rules_equals_float64) {
  const size_t count = std::size(kFeatures);
  for (size_t i = 1; i < count; ++i)
    for (size_t j = i + 1; j < count; ++j)  // of two of one kind the later one holds
      for (const Case& c : {Case{2, 4, 2, 70, 133, 20, 20}, Case{1, 2, 2, 150, 90, 32, 24}})
        expect_float64(c, {&kFeatures[i], &kFeatures[j]});
}

/// One head, one tile of keys, through the tiles of one instruction set.
Tensor by_tiles(const AttentionTiles& tiles, const Tensor& q, const Tensor& k, const Tensor& v) {
  const int64_t n = q.size(0), width = q.size(1);
  const Tensor across = at::empty({width, kTile}), out = at::zeros({n, width});
  const Tensor log_sum = at::empty({n}), scores = at::empty({kTile, kTile});
  tiles.lay_across(q.data_ptr<float>(), width, n, width, 1.0f, across.data_ptr<float>());
  QueryTile queries;
  queries.count = n;
  queries.width = queries.value_width = width;
  queries.across = across.data_ptr<float>();
  KeyTile keys;
  keys.count = k.size(0);
  keys.keys = k.data_ptr<float>();
  keys.values = v.data_ptr<float>();
  keys.key_stride = keys.value_stride = width;
  RunningSoftmax softmax;
  std::fill_n(softmax.most, kTile, -INFINITY);
  std::fill_n(softmax.total, kTile, 0.0f);
  softmax.out = out.data_ptr<float>();
  tiles.forward(queries, keys, softmax, scores.data_ptr<float>());
  tiles.finish(queries, softmax, log_sum.data_ptr<float>());
  return out;
}

TEST(property, attention_of_every_instruction_set_agrees) {
  const RandomStream random(3);
  const Tensor q = normal_tensor({29, 32}, 1, random.child("q"));
  const Tensor k = normal_tensor({53, 32}, 1, random.child("k"));
  const Tensor v = normal_tensor({53, 32}, 1, random.child("v"));
  const Tensor expected = at::softmax(at::matmul(q, k.t()).to(at::kDouble) * std::log(2.0), -1)
                              .matmul(v.to(at::kDouble));
  ASSERT_FALSE(cpu::simd_levels().empty());
  EXPECT_STREQ(cpu::simd_levels().back().attention->name, "base");
  for (const cpu::SimdLevel& level : cpu::simd_levels())
    EXPECT_LT(error_of(by_tiles(*level.attention, q, k, v), expected), 2e-6)
        << level.attention->name;
}

const Feature& feature(const std::string& name) {
  for (const Feature& one : kFeatures)
    if (name == one.name) return one;
  throw std::invalid_argument(name);
}

TEST(property, attention_is_the_same_for_any_number_of_threads) {
  for (const Case& c : {Case{2, 3, 3, 150, 150, 24, 24}, Case{1, 1, 1, 330, 330, 24, 24}})
    for (const char* name :
         {"nothing", "causal", "bias", "shared bias", "bias of a head", "shared offset bias"}) {
      const Inputs in = inputs_of(c, {&feature(name)});
      const auto with = [&](int threads) {
        at::set_num_threads(threads);
        return results_of(in, at::kFloat, at::kFloat, attention_with_log_sum);
      };
      const int before = at::get_num_threads();
      const Results one = with(1), two = with(2);
      at::set_num_threads(before);
      for (size_t i = 0; i < one.size(); ++i)
        EXPECT_TRUE(at::equal(one[i].second, two[i].second)) << c << " " << name << one[i].first;
    }
}

TEST(property, attention_reference_has_the_right_gradients) {
  const Case c{2, 2, 1, 5, 6, 4, 3};
  for (const Feature& one : kFeatures) {
    Inputs in = inputs_of(c, {&one});
    const Results found =
        results_of(in, at::kDouble, at::kDouble, attention_with_log_sum_reference);
    const auto loss = [&] {
      const AttentionResult result = attention_with_log_sum_reference(in.q, in.k, in.v, in.rule);
      const Tensor log_sum = result.log_sum_exp.masked_fill(at::isinf(result.log_sum_exp), 0.0);
      return ((result.out * in.gradient).sum() + (log_sum * in.log_sum_gradient).sum())
          .item<double>();
    };
    for (Tensor* part : {&in.q, &in.k, &in.v, &in.gradient, &in.log_sum_gradient, &in.rule.bias,
                         &in.rule.offset_bias})
      if (part->defined()) *part = part->to(at::kDouble).contiguous();
    const auto expect_slopes = [&](const Tensor& input, size_t index) {
      constexpr double kStep = 1e-5;
      const Tensor slopes = found[index].second.contiguous();
      for (int64_t i = 0; i < input.numel(); i += 7) {
        double& number = input.data_ptr<double>()[i];
        const double before = number;
        number = before + kStep;
        const double above = loss();
        number = before - kStep;
        const double below = loss();
        number = before;
        EXPECT_NEAR(slopes.data_ptr<double>()[i], (above - below) / (2 * kStep), 1e-7)
            << one.name << ", " << found[index].first << " at " << i;
      }
    };
    expect_slopes(in.q, 2);
    expect_slopes(in.k, 3);
    expect_slopes(in.v, 4);
    if (in.rule.bias.defined()) expect_slopes(in.rule.bias, 5);
    if (in.rule.offset_bias.defined()) expect_slopes(in.rule.offset_bias, 5);
  }
}

TEST(property, attention_of_large_scores_stays_finite_and_shows_nan) {
  Inputs in = inputs_of({1, 1, 1, 70, 70, 16, 16}, {&feature("causal")});
  in.q = in.q * 1e4;
  EXPECT_TRUE(at::isfinite(attention(in.q, in.k, in.v, in.rule)).all().item<bool>());
  in.q = in.q.clone();
  in.q[0][0][69].fill_(NAN);
  const Tensor out = attention(in.q, in.k, in.v, in.rule);
  EXPECT_TRUE(at::isnan(out[0][0][69]).all().item<bool>());
  EXPECT_TRUE(at::isfinite(out[0][0].narrow(0, 0, 69)).all().item<bool>());
}

TEST(property, attention_can_be_differentiated_twice) {
  const Inputs in = inputs_of({1, 2, 1, 18, 18, 8, 8}, {&feature("causal"), &feature("bias")});
  const auto gradient_norm_gradients = [&](at::ScalarType type, auto function) {
    const Tensor q = in.q.to(type).detach().requires_grad_();
    AttentionRule rule = in.rule;
    rule.bias = rule.bias.to(type).detach().requires_grad_();
    const AttentionResult result = function(q, in.k.to(type), in.v.to(type), rule);
    const Tensor sum = result.out.square().sum() + result.log_sum_exp.square().sum();
    const Tensor first = torch::autograd::grad({sum}, {q}, {}, true, true)[0];
    return torch::autograd::grad({first.square().sum()}, {q, rule.bias});
  };
  const auto found = gradient_norm_gradients(at::kFloat, attention_with_log_sum);
  const auto expected = gradient_norm_gradients(at::kDouble, attention_with_log_sum_reference);
  for (size_t i = 0; i < found.size(); ++i) EXPECT_LT(error_of(found[i], expected[i]), 1e-5);
}

TEST(property, attention_refuses_rules_of_wrong_shapes) {
  const Inputs in = inputs_of({2, 4, 2, 10, 12, 8, 8});
  const auto said = [&](const AttentionRule& rule, const Tensor& k) -> std::string {
    try {
      attention(in.q, k, in.v, rule);
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing";
  };
  const auto refused = [&](auto change, const std::string& text) {
    AttentionRule rule;
    change(rule);
    EXPECT_NE(said(rule, in.k).find(text), std::string::npos) << said(rule, in.k);
  };
  refused([](auto& rule) { rule.key_valid = at::ones({2, 12}); }, "valid: bool [2,12]");
  refused([](auto& rule) { rule.bias = at::ones({10, 12}); }, "[2 or 1,4 or 1,10,12]");
  refused([](auto& rule) { rule.offset_bias = at::ones({4, 22}); }, "[4 or 1,21]");
  refused([](auto& rule) { rule.open_blocks = at::ones({1, 1, 1}); }, "bool [4 or 1,1,1]");
  refused([](auto& rule) { rule.cosine = at::ones({12, 4}); }, "both [12,d/2]");
  EXPECT_NE(said({}, in.k.narrow(3, 0, 5)).find("q [B,H,Nq,K]"), std::string::npos);
  EXPECT_NE(said({}, in.k.expand({2, 2, 12, 8}).narrow(1, 0, 1)).find("v [B,Hkv"),
            std::string::npos);
}

TEST(property, attention_of_nothing_is_nothing) {
  const Tensor none = at::empty({2, 3, 0, 8});
  EXPECT_EQ(attention(none, none, none, {}).sizes(), none.sizes());
  const Tensor some = at::ones({2, 3, 20, 8});
  EXPECT_TRUE(at::equal(attention(some, none, none, {}), at::zeros_like(some)));
}

}  // namespace
}  // namespace formwork

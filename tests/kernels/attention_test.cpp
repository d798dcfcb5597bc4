#include "kernels/attention.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>

#include "kernels/simd_levels.h"
#include "methods/mixer/attention.h"
#include "methods/module.h"

namespace formwork {
namespace {

struct Case {
  int64_t batch, heads, kv_heads, queries, keys, width, value_width;
  bool causal = false, padded = false;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.batch << "x" << c.heads << "/" << c.kv_heads << "x" << c.queries << "/" << c.keys
             << "x" << c.width << "/" << c.value_width << (c.causal ? " causal" : "")
             << (c.padded ? " padded" : "");
}

// Sizes around the tiles' edges (64 keys, 16 channels, 6 and 12 rows at once), single tokens, more
// keys than queries, shared heads, values of another width, one head whose queries threads share.
const Case kCases[] = {{2, 2, 2, 64, 64, 32, 32},          {1, 3, 3, 1, 1, 8, 8},
                       {2, 2, 1, 65, 65, 16, 16, true},    {1, 4, 2, 130, 130, 40, 24, true, true},
                       {2, 1, 1, 17, 200, 64, 64},         {1, 2, 2, 63, 129, 20, 20, true},
                       {3, 2, 2, 7, 5, 5, 3, false, true}, {1, 6, 3, 100, 100, 72, 72, true},
                       {1, 1, 1, 40, 20, 12, 12, true},    {2, 2, 2, 96, 70, 33, 17, false, true},
                       {1, 1, 1, 330, 330, 20, 20, true},  {1, 2, 1, 200, 140, 32, 16}};

struct Inputs {
  Tensor q, k, v, gradient;
  AttentionRule rule;
};

Inputs inputs_of(const Case& c, uint64_t seed = 1) {
  const RandomStream random(seed);
  // Heads inside rows, as projections leave them: not contiguous as [B,H,N,K].
  const auto draw = [&](int64_t h, int64_t n, int64_t w, const char* name) {
    return normal_tensor({c.batch, n, h, w}, 1.5, random.child(name)).transpose(1, 2);
  };
  Inputs in;
  in.q = draw(c.heads, c.queries, c.width, "q");
  in.k = draw(c.kv_heads, c.keys, c.width, "k");
  in.v = draw(c.kv_heads, c.keys, c.value_width, "v");
  in.gradient = draw(c.heads, c.queries, c.value_width, "gradient");
  in.rule = {c.causal, 1.0 / std::sqrt(static_cast<double>(c.width)), {}};
  if (c.padded) {
    in.rule.key_valid = uniform_tensor({c.batch, c.keys}, 0, 1, random.child("valid")) > 0.4;
    in.rule.key_valid[0].fill_(false);  // queries without any key
  }
  return in;
}

struct Results {
  Tensor out, q, k, v;
};

template <class Function>
Results results_of(const Inputs& in, at::ScalarType type, Function function) {
  const auto leaf = [&](const Tensor& x) { return x.to(type).detach().requires_grad_(); };
  const Tensor q = leaf(in.q), k = leaf(in.k), v = leaf(in.v);
  const Tensor out = function(q, k, v, in.rule);
  out.backward(in.gradient.to(type));
  return {out.detach(), q.grad(), k.grad(), v.grad()};
}

/// Relative to the largest number, or to 1, the size of the inputs: a single key has no gradient.
double error_of(const Tensor& found, const Tensor& expected) {
  const double size = std::max(expected.abs().max().item<double>(), 1.0);
  return (found.to(at::kDouble) - expected).abs().max().item<double>() / size;
}

TEST(property, attention_equals_float64) {
  for (const Case& c : kCases) {
    const Inputs in = inputs_of(c);
    const Results expected = results_of(in, at::kDouble, attention_reference);
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      const double limit = type == at::kFloat ? 2e-6 : 2e-2;
      const Results found = results_of(in, type, attention);
      EXPECT_EQ(found.out.scalar_type(), type);
      EXPECT_LT(error_of(found.out, expected.out), limit) << c << " out " << type;
      EXPECT_LT(error_of(found.q, expected.q), limit) << c << " q " << type;
      EXPECT_LT(error_of(found.k, expected.k), limit) << c << " k " << type;
      EXPECT_LT(error_of(found.v, expected.v), limit) << c << " v " << type;
    }
  }
}

/// One head through the tiles of one instruction set.
Tensor by_tiles(const AttentionTiles& tiles, const Tensor& q, const Tensor& keys,
                const Tensor& values) {
  const int64_t n = q.size(0), width = q.size(1);
  const Tensor across = keys.t().contiguous();
  const Tensor shut = at::zeros({kTile}), out = at::empty({n, width}), log_sum = at::empty({n});
  const uint8_t any_shut = 0;
  PackedKeys packed;
  packed.keys = kTile;
  packed.width = packed.row_width = packed.value_width = packed.value_row_width = width;
  packed.keys_across = across.data_ptr<float>();
  packed.value_rows = values.data_ptr<float>();
  packed.shut = shut.data_ptr<float>();
  packed.any_shut = &any_shut;
  QueryTile query;
  query.rows = q.data_ptr<float>();
  query.count = n;
  std::vector<float> scores(kTile * kTile);
  tiles.forward(packed, query, out.data_ptr<float>(), log_sum.data_ptr<float>(), scores.data());
  return out;
}

TEST(property, attention_of_every_instruction_set_agrees) {
  const RandomStream random(3);
  const Tensor q = normal_tensor({29, 32}, 1, random.child("q"));
  const Tensor k = normal_tensor({kTile, 32}, 1, random.child("k"));
  const Tensor v = normal_tensor({kTile, 32}, 1, random.child("v"));
  const Tensor expected = at::softmax(at::matmul(q, k.t()).to(at::kDouble) * std::log(2.0), -1)
                              .matmul(v.to(at::kDouble));
  ASSERT_FALSE(cpu::simd_levels().empty());
  EXPECT_STREQ(cpu::simd_levels().back().attention->name, "base");
  for (const cpu::SimdLevel& level : cpu::simd_levels())
    EXPECT_LT(error_of(by_tiles(*level.attention, q, k, v), expected), 2e-6)
        << level.attention->name;
}

void expect_same_on_any_threads(const Case& c) {
  const Inputs in = inputs_of(c);
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const Results one = results_of(in, at::kFloat, attention);
  at::set_num_threads(2);
  const Results two = results_of(in, at::kFloat, attention);
  at::set_num_threads(before);
  EXPECT_TRUE(at::equal(one.out, two.out)) << c;
  EXPECT_TRUE(at::equal(one.q, two.q)) << c;
  EXPECT_TRUE(at::equal(one.k, two.k)) << c;
  EXPECT_TRUE(at::equal(one.v, two.v)) << c;
}

TEST(property, attention_is_the_same_for_any_number_of_threads) {
  expect_same_on_any_threads({2, 3, 3, 150, 150, 24, 24, true, true});
  expect_same_on_any_threads({1, 1, 1, 330, 330, 24, 24, true});
}

TEST(property, attention_of_large_scores_stays_finite_and_shows_nan) {
  Inputs in = inputs_of({1, 1, 1, 70, 70, 16, 16, true});
  in.q = in.q * 1e4;
  EXPECT_TRUE(at::isfinite(attention(in.q, in.k, in.v, in.rule)).all().item<bool>());
  in.q = in.q.clone();
  in.q[0][0][69].fill_(NAN);
  const Tensor out = attention(in.q, in.k, in.v, in.rule);
  EXPECT_TRUE(at::isnan(out[0][0][69]).all().item<bool>());
  EXPECT_TRUE(at::isfinite(out[0][0].narrow(0, 0, 69)).all().item<bool>());
}

TEST(property, attention_can_be_differentiated_twice) {
  const Inputs in = inputs_of({1, 2, 1, 18, 18, 8, 8, true});
  const auto gradient_norm_gradient = [&](at::ScalarType type, auto function) {
    const Tensor q = in.q.to(type).detach().requires_grad_();
    const Tensor out = function(q, in.k.to(type), in.v.to(type), in.rule);
    const Tensor first = torch::autograd::grad({out.square().sum()}, {q}, {}, true, true)[0];
    return torch::autograd::grad({first.square().sum()}, {q})[0];
  };
  EXPECT_LT(error_of(gradient_norm_gradient(at::kFloat, attention),
                     gradient_norm_gradient(at::kDouble, attention_reference)),
            1e-5);
}

TEST(property, attention_of_nothing_is_nothing) {
  const Tensor none = at::empty({2, 3, 0, 8});
  EXPECT_EQ(attention(none, none, none, {}).sizes(), none.sizes());
  const Tensor some = at::ones({2, 3, 20, 8});
  EXPECT_TRUE(at::equal(attention(some, none, none, {}), at::zeros_like(some)));
}

}  // namespace
}  // namespace formwork

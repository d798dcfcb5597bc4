// Saturated and hard weights, their limit law and Merrill's constructions: specification
// saturated_attention.
#include "methods/mixer/saturated_weights.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <limits>

#include "lab/formal_languages.h"
#include "methods/mixer/attention.h"
#include "methods/mixer/observed.h"
#include "support/mixers.h"

namespace formwork::test {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

Tensor softmax_of(const Tensor& scores, double c) {
  const Tensor none = at::zeros({scores.size(0), scores.size(1), scores.size(2), 1}, at::kDouble);
  const Tensor keys = at::zeros({scores.size(0), scores.size(1), scores.size(3), 1}, at::kDouble);
  const Tensor open = scores > kMinusInfinity;
  Scores all;
  all.allowed = open;
  all.bias = scores.masked_fill(open.logical_not(), 0) * c;
  return attention_weights(none, keys, all);
}

void check_ties(const GoldenCase& golden) {
  Tensor scores = golden.at("in.scores");
  if (golden.has("in.mask"))
    scores = scores.masked_fill(golden.at("in.mask").to(at::kBool), kMinusInfinity);
  const double tolerance = golden.option<double>("tie_tolerance", 0.0);
  const Chosen hard = golden.option<std::string>("hard", "leftmost").find("right") == 0
                          ? Chosen::hard_right
                          : Chosen::hard_left;
  const std::map<std::string, Chosen> kinds{{"saturated", Chosen::saturated},
                                            {"hard_left", Chosen::hard_left},
                                            {"hard_right", Chosen::hard_right},
                                            {"hard", hard}};
  for (const auto& [name, expected] : golden.under("out.")) {
    SCOPED_TRACE(name);
    if (name.rfind("softmax_c", 0) == 0) {
      expect_close(name, softmax_of(scores, std::stod(name.substr(9))), expected);
    } else if (name.rfind("y_", 0) == 0) {
      const Tensor chosen = chosen_keys(scores, kinds.at(name.substr(2)), tolerance);
      expect_close(name, mean_of_chosen(chosen, golden.at("in.v")), expected);
    } else {
      const Tensor chosen = chosen_keys(scores, kinds.at(name), tolerance);
      expect_close(name, chosen_weights(chosen, at::kDouble), expected);
    }
  }
}

void check_constructions(const GoldenCase& golden) {
  const Tensor v = 2.0 * golden.at("in.bits") - 1.0;
  if (golden.has("out.majority_mean"))
    expect_close("majority", mean_by_equal_scores(v, false).select(1, 0),
                 golden.at("out.majority_mean"));
  if (golden.has("out.prefix_mean"))
    expect_close("prefix", mean_by_equal_scores(v, true), golden.at("out.prefix_mean"));
}

void check_divergence(const GoldenCase& golden) {
  const Tensor probs = golden.at("in.probs");
  const double share = golden.option<double>("tol", 0.9);
  expect_close("loss", saturation_divergence(probs.reshape({-1, probs.size(-1)}), share),
               golden.at("out.loss"));
  if (golden.has("out.saturated"))
    expect_close("saturated",
                 chosen_weights(probs > probs.amax(-1, true) * share, probs.scalar_type()),
                 golden.at("out.saturated"));
}

void check_module(const GoldenCase& golden) {
  MixerCase what{"saturated_attention", {}};
  what.width = golden.at("in.x").size(2);
  what.heads = golden.option<int64_t>("H", 1);
  what.causal = golden.option<bool>("causal", true);
  const int64_t rows = golden.at("param.q_proj.weight").size(0);
  const int64_t key_rows = golden.at("param.k_proj.weight").size(0);
  const std::string gradient = golden.option<std::string>("gradient", "zero");
  const double head_width = static_cast<double>(rows) / static_cast<double>(what.heads);
  const auto number = [&](const char* key, double otherwise) {
    what.options.emplace_back(key, Value(golden.option<double>(key, otherwise)));
  };
  number("scale", 1.0 / std::sqrt(head_width));
  number("tie_tolerance", 0.0);
  number("inverse_temperature", 1.0);
  number("ste_temperature", 1.0);
  what.options.emplace_back("qkv_dim", Value(rows));
  what.options.emplace_back("kv_heads", Value(what.heads * key_rows / rows));
  what.options.emplace_back("bias", Value(golden.has("param.q_proj.bias")));
  what.options.emplace_back("weights", Value(golden.option<std::string>("weights", "saturated")));
  what.options.emplace_back("gradient",
                            Value(gradient.find("zero") == 0 ? "zero" : "straight_through"));
  ASSERT_TRUE(golden.has("in.cotangent"));
  expect_golden(*what.make(), golden);
}

TEST(golden, saturated_attention) {
  for (const GoldenCase& golden : golden_cases("saturated_attention")) {
    SCOPED_TRACE(golden.file);
    if (golden.has("in.scores"))
      check_ties(golden);
    else if (golden.has("in.bits"))
      check_constructions(golden);
    else if (golden.has("in.probs"))
      check_divergence(golden);
    else
      check_module(golden);
  }
}

/// Integer scores [2,3,5,9] with many ties.
Tensor tied_scores() {
  return random_tensor({2, 3, 5, 9}, 1).mul(1.5).round();
}

TEST(property, saturated_attention_is_the_limit_of_softmax) {
  const Tensor scores = tied_scores();
  const Tensor chosen = chosen_keys(scores, Chosen::saturated);
  const Tensor limit = chosen_weights(chosen, at::kDouble);
  const Tensor ties = chosen.sum(-1).to(at::kDouble);
  const Tensor next = scores.masked_fill(chosen, kMinusInfinity).amax(-1);
  const Tensor gap = scores.amax(-1) - next;
  double last = 2.0;
  for (const double c : {1.0, 4.0, 16.0, 64.0}) {
    const Tensor distance = (softmax_of(scores, c) - limit).abs().sum(-1);
    const Tensor bound = 2.0 * (9.0 - ties) / ties * (-c * gap).exp();
    EXPECT_TRUE((distance <= bound + 1e-14).all().item<bool>()) << c;
    EXPECT_LT(distance.max().item<double>(), last);
    last = distance.max().item<double>();
  }
  EXPECT_LT(last, 1e-14);
  // One of several ties is not where softmax goes.
  const Tensor hard = chosen_weights(chosen_keys(scores, Chosen::hard_left), at::kDouble);
  EXPECT_GT((softmax_of(scores, 64.0) - hard).abs().max().item<double>(), 0.4);
}

TEST(property, saturated_attention_of_equal_scores) {
  const Tensor scores = at::full({1, 2, 3, 4}, 0.7, at::kDouble);
  const Tensor v = random_tensor({1, 2, 4, 5}, 2);
  const auto mean = [&](Chosen which) { return mean_of_chosen(chosen_keys(scores, which), v); };
  const auto every = [](const Tensor& row) { return row.unsqueeze(2).expand({1, 2, 3, 5}); };
  expect_near("mean", mean(Chosen::saturated), every(v.mean(2)));
  expect_same_bits("first", mean(Chosen::hard_left), every(v.select(2, 0)));
  expect_same_bits("last", mean(Chosen::hard_right), every(v.select(2, 3)));
}

TEST(property, saturated_attention_does_not_know_scale_or_shift) {
  const Tensor scores = tied_scores(), v = random_tensor({2, 3, 9, 4}, 3);
  const Tensor shift = at::arange(5, at::kDouble).view({5, 1}) - 2.0;
  for (const double scale : {0.5, 3.0, 1024.0})
    expect_same_bits("scaled",
                     mean_of_chosen(chosen_keys(scores * scale + shift, Chosen::saturated), v),
                     mean_of_chosen(chosen_keys(scores, Chosen::saturated), v));
}

TEST(property, saturated_attention_and_the_order_of_tokens) {
  const Tensor scores = tied_scores(), v = random_tensor({2, 3, 9, 4}, 4);
  const Tensor order = at::tensor({4, 8, 0, 2, 7, 1, 3, 6, 5}, at::kLong);
  const auto reordered = [&](Chosen which) {
    return mean_of_chosen(chosen_keys(scores.index_select(3, order), which),
                          v.index_select(2, order));
  };
  const auto plain = [&](Chosen which) { return mean_of_chosen(chosen_keys(scores, which), v); };
  expect_near("saturated", reordered(Chosen::saturated), plain(Chosen::saturated));
  EXPECT_FALSE(at::allclose(reordered(Chosen::hard_left), plain(Chosen::hard_left)));
  const auto equivariant = [](const char* weights) {
    return Choice<Mixer>("saturated_attention")
        .set({{"weights", Value(weights)}})
        .traits()
        .equivariant;
  };
  EXPECT_TRUE(equivariant("saturated") && equivariant("soft"));
  EXPECT_FALSE(equivariant("hard_left") || equivariant("hard_random"));
}

TEST(property, saturated_attention_weights_sum_to_one) {
  Tensor scores = tied_scores();
  scores[1][2][3].fill_(kMinusInfinity);
  const Tensor priority = pair_priority(RandomStream(3), 3, at::arange(5), at::arange(9));
  for (const Chosen which :
       {Chosen::saturated, Chosen::hard_left, Chosen::hard_right, Chosen::hard_random}) {
    const Tensor chosen = chosen_keys(scores, which, 0.0, priority);
    Tensor sums = chosen_weights(chosen, at::kDouble).sum(-1);
    EXPECT_EQ(sums[1][2][3].item<double>(), 0.0);
    sums[1][2][3].fill_(1.0);
    expect_near("sums", sums, at::ones_like(sums));
    if (which != Chosen::saturated) {
      EXPECT_LE(chosen.sum(-1).max().item<int64_t>(), 1);
    }
    const Tensor largest = scores.amax(-1, true).expand_as(scores);
    EXPECT_TRUE((scores == largest).index({chosen}).all().item<bool>());
    const Tensor none = mean_of_chosen(chosen, random_tensor({2, 3, 9, 2}, 5))[1][2][3];
    EXPECT_EQ(none.abs().max().item<double>(), 0.0);
  }
}

TEST(property, saturated_attention_tolerance) {
  const Tensor scores = at::tensor({1.0, 0.95, 0.8, 1.0}, at::kDouble).view({1, 1, 1, 4});
  const auto chosen = [&](Chosen which, double tolerance) {
    const Tensor first = at::tensor({0.1, 0.9, 0.95, 0.2}, at::kDouble);
    return chosen_keys(scores, which, tolerance, first).view({4});
  };
  const auto expect = [](const Tensor& found, std::initializer_list<int64_t> wanted) {
    EXPECT_TRUE(found.to(at::kLong).equal(at::tensor(at::ArrayRef<int64_t>(wanted), at::kLong)));
  };
  expect(chosen(Chosen::saturated, 0.0), {1, 0, 0, 1});
  expect(chosen(Chosen::saturated, 0.1), {1, 1, 0, 1});
  expect(chosen(Chosen::hard_random, 0.0), {0, 0, 0, 1});
  expect(chosen(Chosen::hard_random, 0.1), {0, 1, 0, 0});
  // Hard weights are on exactly the largest score, whatever the tolerance.
  expect(chosen(Chosen::hard_left, 0.3), {1, 0, 0, 0});
  expect(chosen(Chosen::hard_right, 0.3), {0, 0, 0, 1});
}

TEST(property, saturated_attention_selects_a_gates_inputs) {
  // Score 0 on its inputs, -1 elsewhere: the ties are the fan-in.
  const Tensor bits = all_words(6);
  const Tensor wired = at::tensor({0.0, -1.0, 0.0, -1.0, -1.0, 0.0}, at::kDouble);
  const Tensor chosen = chosen_keys(wired.expand({bits.size(0), 1, 1, 6}), Chosen::saturated);
  const Tensor mean = mean_of_chosen(chosen, bits.unsqueeze(1).unsqueeze(-1)).flatten();
  const Tensor inputs = bits.index_select(1, at::tensor({0, 2, 5}, at::kLong));
  EXPECT_TRUE(mean.equal(inputs.sum(1) / 3.0));
}

TEST(property, saturated_attention_hard_weights_read_one_position) {
  const Tensor scores = tied_scores(), v = random_tensor({2, 3, 9, 4}, 7);
  for (const Chosen which : {Chosen::hard_left, Chosen::hard_right}) {
    const Tensor chosen = chosen_keys(scores, which), y = mean_of_chosen(chosen, v);
    for (int64_t query = 0; query < 5; ++query) {
      const Tensor read = chosen.select(2, query).unsqueeze(-1);
      const Tensor flipped = at::where(read, v, -v);
      expect_same_bits("others flipped", mean_of_chosen(chosen, flipped).select(2, query),
                       y.select(2, query));
    }
  }
}

TEST(property, saturated_attention_random_choice) {
  const Tensor scores = at::zeros({1, 4, 64, 8}, at::kDouble);
  const auto drawn = [&](uint64_t seed) {
    return chosen_keys(scores, Chosen::hard_random, 0.0,
                       pair_priority(RandomStream(seed), 4, at::arange(64), at::arange(8)));
  };
  EXPECT_TRUE(drawn(1).equal(drawn(1)));
  EXPECT_FALSE(drawn(1).equal(drawn(2)));
  EXPECT_FALSE(drawn(1)[0][0].equal(drawn(1)[0][1]));
  // 256 draws of 8 keys: 32 each, give or take five deviations of 5.3.
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    const Tensor times = drawn(seed).sum(at::IntArrayRef({0, 1, 2}));
    EXPECT_GT(times.min().item<int64_t>(), 6);
    EXPECT_LT(times.max().item<int64_t>(), 59);
  }
}

TEST(property, saturated_attention_divergence) {
  const Tensor tied = at::tensor({0.4, 0.4, 0.2, 0.1, 0.5, 0.4}, at::kDouble).view({2, 3});
  // u is 1/2 twice in the first row, 1 once in the second.
  const double expected = (std::log(0.5) - std::log(0.4) - std::log(0.5)) / 2.0;
  EXPECT_NEAR(saturation_divergence(tied).item<double>(), expected, 1e-15);
  // 0.4 > share 0.5 counts in both rows, so do all but 0.1.
  const double wider = (std::log(0.5) - std::log(0.4) +
                        0.5 * (2.0 * std::log(0.5) - std::log(0.5) - std::log(0.4))) /
                       2.0;
  EXPECT_NEAR(saturation_divergence(tied, 0.55).item<double>(), wider, 1e-15);
  const Tensor weights = at::tensor({1.0, 0.0, 0.0}, at::kDouble).view({1, 3}).requires_grad_(true);
  const Tensor loss = saturation_divergence(weights);
  loss.backward();
  EXPECT_EQ(loss.item<double>(), 0.0);
  EXPECT_TRUE(weights.grad().isfinite().all().item<bool>());
}

/// The first length at which neighbouring counts of n tokens round to one mean.
int64_t first_collision(at::ScalarType type, int64_t from) {
  for (int64_t n = from;; ++n) {
    const Tensor means = (at::arange(n + 1, at::kDouble) / static_cast<double>(n)).to(type);
    if (means.slice(0, 1).eq(means.slice(0, 0, n)).any().item<bool>()) return n;
  }
}

template <class T>
double ones_first_sum(int64_t ones, int64_t zeros) {
  T sum(0.0F);
  for (int64_t i = 0; i < ones; ++i) sum = static_cast<T>(static_cast<float>(sum) + 1.0F);
  for (int64_t i = 0; i < zeros; ++i) sum = static_cast<T>(static_cast<float>(sum) - 1.0F);
  return static_cast<float>(sum);
}

TEST(property, saturated_attention_counting_precision) {
  EXPECT_EQ(first_collision(at::kBFloat16, 2), 258);
  EXPECT_EQ(first_collision(at::kHalf, 1900), 2050);
  for (const int64_t n : {511, 513, 4095, 4097}) {
    const int64_t ones = (n + 1) / 2;
    EXPECT_EQ(ones_first_sum<c10::BFloat16>(ones, n - ones) > 0.0, n < 513) << n;
    EXPECT_EQ(ones_first_sum<c10::Half>(ones, n - ones) > 0.0, n < 4097) << n;
    // Ours sums 16 bits in float32.
    const Tensor v = at::cat({at::ones({1, 1, ones, 1}), at::full({1, 1, n - ones, 1}, -1.0)}, 2);
    const Tensor chosen = at::ones({1, 1, 1, n}, at::kBool);
    for (const auto type : {at::kBFloat16, at::kHalf})
      EXPECT_GT(mean_of_chosen(chosen, v.to(type)).item<float>(), 0.0F) << n;
  }
}

}  // namespace
}  // namespace formwork::test

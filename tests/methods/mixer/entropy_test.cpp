// The entropy of attention and its lower bound, specification sigma_reparam.
#include <gtest/gtest.h>

#include <cmath>

#include "methods/mixer/attention.h"
#include "methods/mixer/entropy.h"
#include "methods/module.h"
#include "support/golden.h"

namespace formwork::test {
namespace {

Tensor normal(at::IntArrayRef shape, uint64_t seed) {
  return normal_tensor(shape, 1.0, RandomStream(seed)).to(at::kDouble);
}

void check_entropy(const GoldenCase& golden) {
  const Tensor q = golden.at("in.q"), k = golden.at("in.k");
  Scores scores;
  scores.causal = golden.option<bool>("causal", false);
  const Tensor weights = attention_weights(q, k, scores);
  const Tensor rows = attention_entropy(weights);
  expect_close("entropy", rows, golden.at("out.entropy_rows"));
  expect_close("per head", entropy_per_head(rows), golden.at("out.entropy_mean_per_head"));
  if (golden.has("out.entropy_eps1e-6_mean"))
    expect_close("released", attention_entropy(weights, 1e-6).mean().view({1}),
                 golden.at("out.entropy_eps1e-6_mean"));
  const double width = static_cast<double>(q.size(-1));
  const Tensor logits = at::matmul(q, k.transpose(-2, -1)) / std::sqrt(width);
  const int64_t n = logits.size(-1);
  const Tensor open =
      scores.causal ? at::ones({n, n}, at::kBool).tril() : at::ones({n, n}, at::kBool);
  const Tensor sigma = centred_row_norm(logits, scores.causal ? open : Tensor());
  const Tensor keys = allowed_keys(logits, scores.causal ? open : Tensor());
  const Tensor bound = entropy_lower_bound(sigma, keys);
  EXPECT_TRUE((bound <= rows + 1e-12).all().item<bool>());
  if (golden.has("out.sigma_row")) expect_close("row", sigma, golden.at("out.sigma_row"));
  if (golden.has("out.bound_row")) expect_close("row bound", bound, golden.at("out.bound_row"));
  if (golden.has("out.sigma_spectral"))
    expect_close("spectral", spectral_norm(logits), golden.at("out.sigma_spectral"));
  if (golden.has("out.bound_spectral"))
    expect_close("spectral bound", entropy_lower_bound(spectral_norm(logits), n),
                 golden.at("out.bound_spectral"));
}

TEST(golden, sigma_reparam_entropy) {
  for (const GoldenCase& golden : golden_cases("sigma_reparam")) {
    SCOPED_TRACE(golden.file);
    if (golden.has("in.q")) check_entropy(golden);
    for (const auto& [keys, expected] : golden.under("out.bound_T"))
      expect_close("T = " + keys, entropy_lower_bound(golden.at("in.sigma_grid"), std::stoll(keys)),
                   expected);
  }
}

TEST(property, sigma_reparam_entropy_is_above_its_bound) {
  for (const double scale : {0.1, 1.0, 5.0}) {
    const Tensor logits = normal({10000, 9}, 1) * scale;
    const Tensor entropy = attention_entropy(logits.softmax(-1));
    const Tensor row = entropy_lower_bound(centred_row_norm(logits), 9);
    const Tensor spectral = entropy_lower_bound(spectral_norm(logits), 9);
    EXPECT_TRUE((row <= entropy + 1e-12).all().item<bool>());
    EXPECT_TRUE((spectral <= row + 1e-12).all().item<bool>());
  }
}

TEST(property, sigma_reparam_entropy_bound_is_reached) {
  for (const int64_t keys : {2, 3, 16, 197}) {
    const double t = static_cast<double>(keys);
    for (const double sigma : {0.0, 0.3, 2.0, 9.0}) {
      Tensor logits = at::full({1, keys}, -sigma / std::sqrt(t * (t - 1)), at::kDouble);
      logits[0][0] = sigma * std::sqrt((t - 1) / t);
      expect_close("length", centred_row_norm(logits), at::full({1}, sigma, at::kDouble));
      expect_close("bound", entropy_lower_bound(at::full({1}, sigma, at::kDouble), keys),
                   attention_entropy(logits.softmax(-1)));
    }
  }
}

TEST(property, sigma_reparam_entropy_bound_at_its_ends) {
  const Tensor sigma = at::tensor({0.0, 1.0, 30.0, 1e4, INFINITY}, at::kDouble);
  const Tensor bound = entropy_lower_bound(sigma, 7);
  EXPECT_NEAR(bound[0].item<double>(), std::log(7.0), 1e-14);
  EXPECT_TRUE((bound.slice(0, 1) <= bound.slice(0, 0, -1)).all().item<bool>()) << bound;
  EXPECT_EQ(bound[4].item<double>(), 0.0);
  EXPECT_TRUE(
      (entropy_lower_bound(sigma, 8).slice(0, 0, 3) > bound.slice(0, 0, 3)).all().item<bool>());
  EXPECT_TRUE((entropy_lower_bound(sigma, 1) == 0).all().item<bool>()) << "one key";
}

TEST(property, sigma_reparam_entropy_bound_by_weights) {
  const Tensor x = normal({3, 10, 12}, 4);
  const Tensor query = normal({8, 12}, 5), key = normal({8, 12}, 6);
  for (const bool bias : {false, true}) {
    const Tensor bq = bias ? normal({8}, 7) : Tensor(), bk = bias ? normal({8}, 8) : Tensor();
    const auto heads = [&](const Tensor& weight, const Tensor& b) {
      return at::linear(x, weight, b).unflatten(2, {2, 4}).transpose(1, 2);
    };
    const Tensor logits =
        at::matmul(heads(query, bq), heads(key, bk).transpose(-2, -1)) / std::sqrt(4.0);
    const Tensor bound = weight_norm_bound({query, key, bq, bk}, x, 2);
    EXPECT_TRUE((spectral_norm(logits) <= bound * (1 + 1e-12)).all().item<bool>());
  }
}

TEST(property, sigma_reparam_entropy_leaves_out_padding) {
  const Tensor rows = normal({2, 3, 5}, 9).abs();
  const Tensor valid = at::arange(5).unsqueeze(0) < at::tensor({5, 2}).unsqueeze(1);
  const Tensor expected = (rows[0].sum(-1) + rows[1].narrow(-1, 0, 2).sum(-1)) / 7.0;
  expect_close("per head", entropy_per_head(rows, valid), expected);
  expect_close("uniform", attention_entropy(at::full({2, 8}, 0.125, at::kDouble)),
               at::full({2}, std::log(8.0), at::kDouble));
  EXPECT_EQ(attention_entropy(at::eye(3, at::kDouble)).abs().max().item<double>(), 0.0);
}

}  // namespace
}  // namespace formwork::test

// The measures behind the probes against reference numbers and what is known of them exactly.
#include "methods/probe/measures.h"

#include <gtest/gtest.h>

#include <cmath>

#include "methods/module.h"
#include "methods/probe/probe.h"
#include "support/golden.h"

namespace formwork::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Tensor doubles(const std::vector<double>& values) {
  return at::tensor(values, at::kDouble);
}

/// Scores of a golden case, closed pairs -infinity.
Tensor scores_of(const GoldenCase& golden) {
  const Tensor &q = golden.at("in.q"), &k = golden.at("in.k");
  const Tensor scores =
      at::matmul(q, k.transpose(-2, -1)) / std::sqrt(static_cast<double>(q.size(-1)));
  if (!golden.option<bool>("causal", false)) return scores;
  const Tensor past = at::ones({q.size(2), k.size(2)}, at::kBool).tril(k.size(2) - q.size(2));
  return scores.masked_fill(past.logical_not(), -kInfinity);
}

/// What the probe says of one sublayer with these scores.
Findings entropy_findings(const Tensor& scores, const std::string& bound) {
  ProbeSite site;
  Choice<Probe> choice("attention_entropy");
  choice.set({{"bound", Value(bound)}});
  const std::shared_ptr<Probe> probe = choice.make(site);
  probe->begin();
  probe->see("layers.0.attn.scores", scores);
  probe->see("layers.0.attn.attention", scores.softmax(-1));
  probe->end();
  return probe->findings();
}

/// The figures of the heads: those of a row after the first `skip`.
Tensor by_head(const Figures& figures, size_t skip) {
  const std::vector<double>& row = figures.rows.front().second;
  return doubles({row.begin() + static_cast<int64_t>(skip), row.end()});
}

TEST(golden, sigma_reparam_entropy) {
  for (const GoldenCase& golden : golden_cases("sigma_reparam")) {
    if (!golden.has("in.q")) continue;
    SCOPED_TRACE(golden.file);
    const Tensor scores = scores_of(golden), weights = scores.softmax(-1);
    expect_close("rows", entropy_of(weights), golden.at("out.entropy_rows"));
    const Findings found = entropy_findings(scores, "row");
    expect_close("heads", by_head(found.figures.at(0), 2), golden.at("out.entropy_mean_per_head"));
    for (const auto& [name, bound] : golden.under("out.bound_T")) {
      const Tensor keys = at::full({1}, std::stoll(name), at::kLong);
      expect_close("grid", entropy_bound(golden.at("in.sigma_grid"), keys), bound);
    }
    if (!golden.has("out.bound_row")) continue;
    expect_close("sigma", centred_norm(scores), golden.at("out.sigma_row"));
    const Tensor row = entropy_bound(centred_norm(scores), open_keys(scores));
    expect_close("row", row, golden.at("out.bound_row"));
    expect_close("row by head", by_head(found.figures.at(1), 1),
                 golden.at("out.bound_row").mean(at::IntArrayRef{0, 2}));
    const Findings spectral = entropy_findings(scores, "spectral");
    expect_close("spectral by head", by_head(spectral.figures.at(1), 1),
                 golden.at("out.bound_spectral").mean(0));
  }
}

TEST(property, attention_entropy_bound_holds_and_is_attained) {
  const Tensor scores = normal_tensor({2000, 7}, 1.0, RandomStream(1)).to(at::kDouble) *
                        at::exp(normal_tensor({2000, 1}, 1.5, RandomStream(2)).to(at::kDouble));
  const Tensor bound = entropy_bound(centred_norm(scores), open_keys(scores));
  EXPECT_TRUE((bound <= entropy_of(scores.softmax(-1)) + 1e-12).all().item<bool>());
  EXPECT_GT(bound.max().item<double>(), 0.5);
  // One logit apart from the others is the extremal row.
  const double sigma = 2.5, keys = 7.0;
  Tensor extremal = at::full({7}, -sigma / std::sqrt(keys * (keys - 1)), at::kDouble);
  extremal[0] = sigma * std::sqrt((keys - 1) / keys);
  expect_close("extremal", entropy_bound(doubles({sigma}), doubles({keys}))[0],
               entropy_of(extremal.softmax(-1)));
  expect_close("none", entropy_bound(doubles({0.0, 3.0}), doubles({5.0, 1.0})),
               doubles({std::log(5.0), 0.0}));
}

TEST(golden, breaking_symmetry_diagnostics) {
  for (const GoldenCase& golden : golden_cases("breaking_symmetry")) {
    if (!golden.has("out.hidden")) continue;
    SCOPED_TRACE(golden.file);
    const Tensor& hidden = golden.at("out.hidden");
    const Tensor correlation = slice_correlation(hidden);
    expect_close("correlation", correlation, golden.at("out.slice_correlation"));
    expect_close("score", slice_score(correlation), golden.at("out.slice_score"));
    expect_close("distance", similarity_by_distance(hidden),
                 golden.at("out.similarity_by_distance"));
    // The same through the probe, which keeps the last stream of each layer.
    ProbeSite site;
    const std::shared_ptr<Probe> probe = Choice<Probe>("token_similarity").make(site);
    probe->begin();
    probe->see("stem.output", hidden[0]);
    for (int64_t l = 1; l < hidden.size(0); ++l) {
      probe->see(join_text("layers.", l - 1, ".attn.stream"), at::rand_like(hidden[l]));
      probe->see(join_text("layers.", l - 1, ".ffn.stream"), hidden[l]);
    }
    probe->end();
    const Findings found = probe->findings();
    expect_close("probe", doubles(found.series.at(1).values), golden.at("out.slice_score"));
    // The change of the last output, of which the symmetry's gap is made.
    const Tensor y = golden.at("out.y").select(1, -1);
    const Tensor permuted = golden.at("out.y_permuted").select(1, -1);
    const double gap = relative_gap(y, permuted);
    const double change = (y - permuted).abs().max().item<double>();
    EXPECT_NEAR(gap * (1 + y.abs().max().item<double>()), change, 1e-15);
    const bool none = golden.option<std::string>("position", "none") == "none";
    const bool symmetric =
        none && (!golden.option<bool>("causal", false) || golden.option<int64_t>("layers", 1) == 1);
    EXPECT_EQ(gap <= 1e-12, symmetric) << gap;
  }
}

TEST(golden, conditioned_embedded_tokens_condition_numbers) {
  for (const GoldenCase& golden : golden_cases("conditioned_embedded_tokens")) {
    SCOPED_TRACE(golden.file);
    const Tensor& x = golden.at("in.x");
    if (golden.has("out.kappa_before")) {
      expect_close("before", condition_number(x), golden.at("out.kappa_before"), 1e-8);
      expect_close("after", condition_number(golden.at("out.y")), golden.at("out.kappa_after"));
      continue;
    }
    if (!golden.has("out.kappa_la")) continue;
    const auto map = [&](const char* name) {
      return golden.at(std::string("param.") + name + "_proj.weight").t();
    };
    const Tensor scores = at::matmul(at::matmul(x, map("q")), at::matmul(x, map("k")).t());
    expect_close("la", at::matmul(scores, at::matmul(x, map("v"))), golden.at("out.y"));
    expect_close("x", condition_number(x).to(at::kFloat), golden.at("out.kappa_x"), 1e-6);
    expect_close("of la", condition_number(golden.at("out.y")).to(at::kFloat),
                 golden.at("out.kappa_la"), 1e-6);
    const Tensor bound = condition_number(map("q")) * condition_number(map("k")) *
                         condition_number(map("v")) * condition_number(x).pow(3);
    expect_close("bound", bound.to(at::kFloat), golden.at("out.bound"), 1e-6);
  }
}

TEST(golden, peri_ln_stream_figures) {
  for (const GoldenCase& golden : golden_cases("peri_ln")) {
    if (!golden.has("out.hidden_states")) continue;
    SCOPED_TRACE(golden.file);
    const Tensor& states = golden.at("out.hidden_states");
    const Tensor valid =
        golden.has("in.pad_mask") ? golden.at("in.pad_mask").logical_not() : Tensor();
    std::vector<double> variance, rms, largest;
    for (int64_t l = 0; l < states.size(0); ++l) {
      const StreamFigures figures = stream_figures(states[l], valid);
      variance.push_back(figures.variance);
      rms.push_back(figures.rms);
      largest.push_back(figures.largest);
    }
    expect_close("variance", doubles(variance), golden.at("out.token_variance_mean"));
    expect_close("rms", doubles(rms), golden.at("out.rms_mean"));
    expect_close("largest", doubles(largest), golden.at("out.max_abs"));
  }
}

TEST(property, condition_number_and_stable_rank) {
  const Tensor diagonal = at::diag(doubles({8.0, 2.0, 4.0}));
  EXPECT_DOUBLE_EQ(condition_number(diagonal).item<double>(), 4.0);
  EXPECT_DOUBLE_EQ(condition_number(at::diag(doubles({1.0, 0.0}))).item<double>(), kInfinity);
  EXPECT_DOUBLE_EQ(stable_rank(doubles({8.0, 4.0, 2.0})).item<double>(), 84.0 / 64.0);
  EXPECT_DOUBLE_EQ(stable_rank(at::ones({5}, at::kDouble)).item<double>(), 5.0);
}

TEST(property, fitted_lines) {
  const Line line = fit_line({1.0, 3.0, 5.0, 7.0});
  EXPECT_DOUBLE_EQ(line.slope, 2.0);
  EXPECT_DOUBLE_EQ(line.r2, 1.0);
  const Line none = fit_line({1.0, -1.0, -1.0, 1.0});
  EXPECT_NEAR(none.slope, 0.0, 1e-15);
  EXPECT_NEAR(none.r2, 0.0, 1e-15);
}

}  // namespace
}  // namespace formwork::test

// Each probe on small tensors whose figures are known by hand.
#include "methods/probe/probe.h"

#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <cmath>

#include "support/golden.h"
#include "support/refusal.h"

namespace formwork::test {
namespace {

std::shared_ptr<Probe> probe(const std::string& text, ProbeSite site = {}) {
  return parse_probe(text, "probe").make(site);
}

Tensor doubles(const std::vector<double>& values, at::IntArrayRef shape) {
  return at::tensor(values, at::kDouble).view(shape);
}

/// One pass over the points.
Findings look(Probe& probe, const std::vector<std::pair<std::string, Tensor>>& points) {
  probe.begin();
  for (const auto& [point, tensor] : points)
    if (probe.wants(point)) probe.see(point, tensor);
  probe.end();
  return probe.findings();
}

double figure(const Figures& figures, const std::string& row, const std::string& column) {
  const auto at = std::find(figures.columns.begin(), figures.columns.end(), column);
  EXPECT_NE(at, figures.columns.end()) << column;
  for (const auto& [name, values] : figures.rows)
    if (name == row) return values.at(static_cast<size_t>(at - figures.columns.begin()));
  ADD_FAILURE() << "no row " << row;
  return std::nan("");
}

bool says(const Findings& found, const std::string& part) {
  for (const std::string& sentence : found.sentences)
    if (sentence.find(part) != std::string::npos) return true;
  return false;
}

std::string all_sentences(const Findings& found) {
  std::string text;
  for (const std::string& sentence : found.sentences) text += sentence + "\n";
  return text;
}

TEST(property, probe_names_are_parsed_and_refused) {
  expect_error([] { parse_probe("attention_entropi", "--probe"); }, Fault::request,
               {"--probe", "attention_entropi", "did you mean 'attention_entropy'"});
  expect_error([] { parse_probe("attention_entropy:bund=row", "--probe"); }, Fault::request,
               {"bund", "did you mean 'bound'"});
  expect_error([] { parse_probe("attention_entropy:bound=loose", "--probe"); }, Fault::request,
               {"loose", "row, spectral, weights"});
  expect_error([] { parse_probe("attention_entropy:bound", "--probe"); }, Fault::request,
               {"NAME:OPTION=VALUE"});
  EXPECT_EQ(parse_probe("causality:positions=4,tolerance=1e-3", "").kind(), "causality");
}

TEST(property, probe_places) {
  EXPECT_EQ(place_at("layers.3.attn.attention", "attention"), "layers.3.attn");
  EXPECT_EQ(place_at("layers.3.attention", "tension"), "");
  EXPECT_EQ(layer_of("layers.12.ffn.up.weight"), "layers.12");
  EXPECT_EQ(layer_of("encoder.layers.0.attn"), "encoder.layers.0");
  EXPECT_EQ(layer_of("encoder.stem.table"), "encoder.stem");
  EXPECT_EQ(layer_of("head.weight"), "head");
}

TEST(property, attention_entropy_leaves_padding_out) {
  // Uniform over 2 of 4 keys: log 2; the padded query looks at one key.
  Tensor a = at::zeros({1, 1, 3, 4}, at::kDouble);
  a.narrow(2, 0, 2).narrow(3, 0, 2).fill_(0.5);
  a[0][0][2][0] = 1.0;
  const Tensor valid = at::tensor({1, 1, 0}).to(at::kBool).view({1, 3});
  const auto all = probe("attention_entropy"), real = probe("attention_entropy");
  const Findings with =
      look(*real, {{"layers.0.attn.valid", valid}, {"layers.0.attn.attention", a}});
  EXPECT_NEAR(with.series.at(0).values.at(0), std::log(2.0), 1e-12);
  EXPECT_EQ(with.figures.size(), 1u) << "no bound without scores";
  EXPECT_TRUE(says(with, "no lower bound"));
  const Findings without = look(*all, {{"layers.0.attn.attention", a}});
  EXPECT_NEAR(without.series.at(0).values.at(0), std::log(2.0) * 2 / 3, 1e-12);
}

TEST(property, attention_entropy_says_what_it_cannot_measure) {
  const auto none = probe("attention_entropy");
  EXPECT_TRUE(says(look(*none, {}), "no mixer of this model forms attention weights"));
  const auto negative = probe("attention_entropy");
  const Tensor a = doubles({1.5, -0.5, 0.5, 0.5}, {1, 1, 2, 2});
  const Findings found = look(*negative, {{"layers.0.attn.attention", a}});
  EXPECT_TRUE(says(found, "layers.0.attn are no distribution")) << all_sentences(found);
  EXPECT_TRUE(found.figures.empty());
}

/// A head of width 2 on 3 tokens of 3 channels, biases included.
struct SmallAttention {
  Tensor x = normal_tensor({1, 3, 3}, 1.0, RandomStream(1)).to(at::kDouble);
  Tensor wq = normal_tensor({2, 3}, 1.0, RandomStream(2)).to(at::kDouble);
  Tensor wk = normal_tensor({2, 3}, 1.0, RandomStream(3)).to(at::kDouble);
  Tensor bq = normal_tensor({2}, 1.0, RandomStream(4)).to(at::kDouble);
  Tensor bk = normal_tensor({2}, 1.0, RandomStream(5)).to(at::kDouble);
  Tensor scores() const {
    const Tensor q = at::linear(x, wq, bq), k = at::linear(x, wk, bk);
    return (at::matmul(q, k.transpose(-2, -1)) / std::sqrt(2.0)).unsqueeze(1);
  }
  ProbeSite site() const {
    ProbeSite site;
    site.parameters = {{"layers.0.q_proj.weight", wq, Role::query, 1, 1},
                       {"layers.0.q_proj.bias", bq, Role::bias, 1, 1},
                       {"layers.0.k_proj.weight", wk, Role::key, 1, 1},
                       {"layers.0.k_proj.bias", bk, Role::bias, 1, 1}};
    return site;
  }
};

TEST(property, attention_entropy_bound_from_weights) {
  const SmallAttention small;
  const Tensor scores = small.scores();
  const std::vector<std::pair<std::string, Tensor>> points{
      {"layers.0.attn.input", small.x},
      {"layers.0.attn.scores", scores},
      {"layers.0.attn.attention", scores.softmax(-1)}};
  const auto by_weights = probe("attention_entropy:bound=weights", small.site());
  const Findings found = look(*by_weights, points);
  ASSERT_EQ(found.series.size(), 2u) << all_sentences(found);
  const Tensor q = at::cat({small.wq, small.bq.unsqueeze(1)}, 1);
  const Tensor k = at::cat({small.wk, small.bk.unsqueeze(1)}, 1);
  const Tensor x = at::cat({small.x[0], at::ones({3, 1}, at::kDouble)}, 1);
  const auto norm = [](const Tensor& m) { return at::linalg_svdvals(m)[0].item<double>(); };
  const double sigma = norm(at::matmul(q.t(), k)) * norm(x) * norm(x) / std::sqrt(2.0);
  const double b = std::exp(-sigma * std::sqrt(1.5));
  const double bound = std::log1p(2 * b) + sigma * std::sqrt(6.0) * b / (1 + 2 * b);
  EXPECT_NEAR(found.series.at(1).values.at(0), bound, 1e-12);
  EXPECT_LE(bound, found.series.at(0).values.at(0));
  // Scores that are more than products of queries and keys: no bound, and it says so.
  const auto biased = probe("attention_entropy:bound=weights", small.site());
  const Findings refused =
      look(*biased, {points[0], {points[1].first, scores + at::arange(3)}, points[2]});
  EXPECT_EQ(refused.series.size(), 1u);
  EXPECT_TRUE(says(refused, "plain products of queries and keys"));
}

TEST(property, attention_maps_tell_where_heads_look) {
  Tensor a = at::zeros({1, 2, 3, 3}, at::kFloat);
  a[0][0].copy_(at::eye(3));
  a[0][1].select(1, 0).fill_(1.0);  // everything at the first token
  const auto maps = probe("attention_maps");
  const Findings found = look(*maps, {{"layers.0.attn.attention", a}});
  const Figures& heads = found.figures.at(0);
  EXPECT_EQ(figure(heads, "layers.0.attn head 0", "distance (tokens)"), 0.0);
  EXPECT_EQ(figure(heads, "layers.0.attn head 0", "at itself"), 1.0);
  EXPECT_EQ(figure(heads, "layers.0.attn head 1", "distance (tokens)"), 1.0);
  EXPECT_EQ(figure(heads, "layers.0.attn head 1", "at the first token"), 1.0);
  EXPECT_NEAR(figure(heads, "layers.0.attn head 1", "at the token before"), 1.0 / 3, 1e-12);
  ASSERT_EQ(found.pictures.size(), 2u);
  EXPECT_TRUE(at::equal(found.pictures[1].values, a[0][1]));
  EXPECT_EQ(found.series.at(0).values, std::vector<double>{0.5});
  // Padded tokens are cut off; long sequences are averaged down.
  const auto small = probe("attention_maps:most=2");
  const Tensor valid = at::tensor({1, 1, 0}).to(at::kBool).view({1, 3});
  const Findings cut =
      look(*small, {{"layers.0.attn.valid", valid}, {"layers.0.attn.attention", a}});
  EXPECT_TRUE(at::equal(cut.pictures[0].values, at::eye(2)));
  EXPECT_EQ(figure(cut.figures.at(0), "layers.0.attn head 1", "distance (tokens)"), 0.5);
}

TEST(property, condition_numbers_and_their_premise) {
  const Tensor x = at::diag(at::tensor({4.0, 2.0}, at::kDouble)).unsqueeze(0);
  const Tensor p = doubles({0.75, 0.25, 0.25, 0.75}, {1, 1, 2, 2});  // singular values 1, 1/2
  const auto numbers = probe("condition_number");
  const Findings found = look(*numbers, {{"stem.tokens", x},
                                         {"stem.conditioned", x / 3},
                                         {"layers.0.attn.input", x},
                                         {"layers.0.attn.value", x.unsqueeze(1)},
                                         {"layers.0.attn.attention", p}});
  EXPECT_TRUE(says(found, "premise N >= D")) << all_sentences(found);
  EXPECT_TRUE(says(found, "kappa(Wv) holds (N at least 2 tokens, D 2 channels)"));
  EXPECT_NEAR(figure(found.figures.at(0), "stem.tokens", "median"), 2.0, 1e-12);
  const Figures& block = found.figures.at(1);
  EXPECT_NEAR(figure(block, "layers.0.attn", "attention matrix P"), 2.0, 1e-12);
  EXPECT_NEAR(figure(block, "layers.0.attn", "input X"), 2.0, 1e-12);
  const Tensor s = at::linalg_svdvals(at::matmul(p[0][0], x[0]));
  EXPECT_NEAR(figure(block, "layers.0.attn", "output P V"), (s[0] / s[1]).item<double>(), 1e-12);
  EXPECT_NEAR(figure(block, "layers.0.attn", "its bound kappa(P) kappa(V)"), 4.0, 1e-12);
  // Fewer tokens than channels: the premise fails, and without the padded one it does too.
  const auto wide = probe("condition_number");
  EXPECT_TRUE(says(look(*wide, {{"stem.tokens", x.narrow(1, 0, 1)}}), "does not hold"));
  const auto padded = probe("condition_number");
  const Tensor valid = at::tensor({1, 0}).to(at::kBool).view({1, 2});
  EXPECT_TRUE(says(look(*padded, {{"stem.valid", valid}, {"stem.tokens", x}}), "does not hold"));
}

TEST(property, activations_by_depth) {
  Tensor start = doubles({1, -1, 1, -1, 9, 9}, {1, 3, 2});
  const Tensor valid = at::tensor({1, 1, 0}).to(at::kBool).view({1, 3});
  Tensor next = start * 2, massive = next.clone();
  massive[0][1][1] = -5000.0;
  const auto stream = probe("activations");
  const Findings found = look(*stream, {{"stem.valid", valid},
                                        {"stem.output", start},
                                        {"layers.0.attn.valid", valid},
                                        {"layers.0.attn.branch", start},
                                        {"layers.0.attn.stream", next},
                                        {"layers.0.ffn.valid", valid},
                                        {"layers.0.ffn.stream", massive}});
  const Figures& rows = found.figures.at(0);
  EXPECT_EQ(figure(rows, "stem", "variance"), 1.0);
  EXPECT_EQ(figure(rows, "layers.0.attn", "variance"), 4.0);
  EXPECT_EQ(figure(rows, "layers.0.attn", "largest"), 2.0) << "the padded 18 is left out";
  EXPECT_NEAR(figure(rows, "layers.0.attn", "cosine with start"), 1.0, 1e-12);
  EXPECT_EQ(figure(rows, "layers.0.attn", "branch/stream after"), 0.5);
  EXPECT_EQ(figure(rows, "layers.0.attn", "fp16 headroom"), 32752.0);
  EXPECT_EQ(figure(rows, "layers.0.ffn", "massive"), 1.0);
  EXPECT_TRUE(says(found, "massive after layers.0.ffn: token 1, channel 1, -5000"));
  EXPECT_EQ(found.series.at(0).values.size(), 3u);
}

TEST(property, gradient_norms_by_layer_and_role) {
  ProbeSite site;
  const auto parameter = [&](const char* name, Role role, const std::vector<double>& gradient) {
    Tensor tensor = at::zeros({static_cast<int64_t>(gradient.size())}, at::kDouble);
    tensor.requires_grad_(true);
    tensor.mutable_grad() = at::tensor(gradient, at::kDouble);
    site.parameters.push_back({name, tensor, role, 1, 1});
  };
  parameter("stem.table", Role::embedding, {2.0});
  parameter("layers.0.q_proj.weight", Role::query, {3.0});
  parameter("layers.0.ffn.up.weight", Role::up, {0.0, 4.0});
  const auto norms = probe("gradient_norm", site);
  norms->end();
  const Findings found = norms->findings();
  const Figures& rows = found.figures.at(0);
  EXPECT_EQ(figure(rows, "layers.0", "all"), 5.0);
  EXPECT_EQ(figure(rows, "layers.0", "query"), 3.0);
  EXPECT_TRUE(std::isnan(figure(rows, "stem", "query")));
  EXPECT_EQ(found.series.at(0).values, (std::vector<double>{2.0, 5.0}));
}

TEST(property, spectra_of_weights_and_updates) {
  ProbeSite site;
  const Tensor w = at::diag(at::tensor({4.0, 2.0, 1.0}, at::kDouble));
  site.parameters = {{"layers.0.q_proj.weight", w, Role::query, 1, 1},
                     {"norm.weight", at::ones({3}, at::kDouble), Role::norm, 1, 1}};
  const auto weights = probe("spectrum:points=3", site);
  const Findings found = weights->findings();
  EXPECT_TRUE(says(found, "no earlier weights are known"));
  EXPECT_EQ(found.figures.at(0).rows.size(), 1u);
  const auto of_query = [&](const char* column) {
    return figure(found.figures.at(0), "layers.0.q_proj.weight", column);
  };
  EXPECT_NEAR(of_query("largest"), 4.0, 1e-12);
  EXPECT_NEAR(of_query("stable rank"), 21.0 / 16.0, 1e-12);
  EXPECT_NEAR(of_query("condition"), 4.0, 1e-12);
  EXPECT_NEAR(figure(found.figures.at(2), "50", "query"), 0.5, 1e-12);
  EXPECT_NEAR(figure(found.figures.at(2), "100", "query"), 0.25, 1e-12);
  site.before = {w - at::ones({3, 3}, at::kDouble), at::ones({3}, at::kDouble)};
  site.since = "initialisation";
  const auto updates = probe("spectrum:of=updates", site);
  const Findings change = updates->findings();
  EXPECT_NEAR(figure(change.figures.at(0), "layers.0.q_proj.weight", "largest"), 3.0, 1e-12);
  EXPECT_NEAR(change.series.at(0).values.at(0), 1.0, 1e-9);
  EXPECT_EQ(change.series.at(0).name, "update.query");
}

TEST(property, sublayer_gains) {
  const Tensor x = doubles({3, 4, 0, 1}, {1, 2, 2});
  const auto gain = probe("sublayer_gain");
  const Findings found = look(*gain, {{"stem.output", x},
                                      {"layers.0.attn.input", x / 5},
                                      {"layers.0.attn.branch", x * 2},
                                      {"layers.0.attn.stream", x * 3}});
  const Figures& rows = found.figures.at(0);
  EXPECT_NEAR(figure(rows, "layers.0.attn", "branch/input"), 10.0, 1e-12);
  EXPECT_NEAR(figure(rows, "layers.0.attn", "branch/stream before"), 2.0, 1e-12);
  EXPECT_NEAR(figure(rows, "layers.0.attn", "stream after/before"), 3.0, 1e-12);
  EXPECT_NEAR(figure(rows, "layers.0.attn", "cosine of branch and stream"), 1.0, 1e-12);
}

/// A model of two sublayers that mix tokens by matrices M1 and M2 [N,N].
class Mixing final : public Subject {
 public:
  Mixing(Tensor first, Tensor second) : first_(std::move(first)), second_(std::move(second)) {}
  Tensor run(const Run& how) override {
    Tensor x = vectors_.clone();
    if (how.edit) how.edit(x);
    if (c10::GradMode::is_enabled()) x.requires_grad_(true);
    const auto show = [&](const char* point, const Tensor& tensor) {
      if (how.watcher) how.watcher->see(point, tensor);
    };
    show("stem.tokens", x);
    Tensor h = at::matmul(first_, x);
    if (detached) h = h.detach() + x * 0;
    show("layers.0.attn.stream", h);
    h = at::matmul(second_, h);
    show("layers.1.attn.stream", h);
    show("final.output", h);
    return h;
  }
  Tensor input() const override { return vectors_; }
  int64_t vocabulary() const override { return 0; }
  Tensor valid() const override { return mask; }
  int64_t added() const override { return 0; }
  bool causal() const override { return declared; }
  bool per_token() const override { return true; }

  bool declared = true, detached = false;
  Tensor mask;

 private:
  Tensor vectors_ = normal_tensor({2, 6, 4}, 1.0, RandomStream(9)).to(at::kDouble);
  Tensor first_, second_;
};

Tensor past() {
  return at::ones({6, 6}, at::kDouble).tril();
}

TEST(property, causality_of_a_causal_model) {
  Mixing model(past(), past());
  const auto test = probe("causality");
  test->experiment(model);
  const Findings found = test->findings();
  EXPECT_TRUE(says(found, "causal: no input can change an earlier output")) << all_sentences(found);
  EXPECT_TRUE(says(found, "links reach 5 tokens back and 0 ahead"));
  EXPECT_EQ(figure(found.figures.at(0), "gradient", "linked"), 21.0);
  EXPECT_EQ(figure(found.figures.at(0), "change", "linked"), 21.0);
}

TEST(property, causality_names_the_first_leak) {
  Tensor leaky = past();
  leaky[2][4] = 0.5;
  for (const bool detached : {false, true}) {
    Mixing model(past(), leaky);
    model.detached = detached;
    const auto test = probe("causality");
    test->experiment(model);
    const Findings found = test->findings();
    EXPECT_TRUE(says(found,
                     "LEAK: a causal model sees the future, first at layers.1.attn.stream, "
                     "where input 3 changes output 2") ||
                says(found,
                     "LEAK: a causal model sees the future, first at layers.1.attn.stream, "
                     "where input 4 changes output 2"))
        << all_sentences(found);
    EXPECT_EQ(says(found, "discrete or detached path"), detached) << all_sentences(found);
  }
}

TEST(property, causality_where_the_future_may_be_seen) {
  Mixing both(at::ones({6, 6}, at::kDouble), past());
  both.declared = false;
  const auto test = probe("causality");
  test->experiment(both);
  EXPECT_TRUE(says(test->findings(), "sees both ways, as it may"));
  Mixing causal(past(), past());
  causal.declared = false;
  const auto again = probe("causality:positions=3");
  again->experiment(causal);
  EXPECT_TRUE(says(again->findings(), "causal, though it need not be"));
}

TEST(property, causality_finds_padding_that_leaks) {
  Mixing model(past(), past());
  model.declared = false;
  model.mask = at::ones({2, 6}, at::kBool);
  model.mask.select(1, 0).fill_(false);  // padding to the left, which this model does not hide
  const auto test = probe("causality");
  test->experiment(model);
  const Findings found = test->findings();
  EXPECT_TRUE(says(found, "LEAK: padded tokens change what counts, first at layers.0.attn.stream"))
      << all_sentences(found);
}

TEST(property, permutation_symmetry_of_sums_and_of_weighted_sums) {
  Mixing sums(at::eye(6, at::kDouble), past());
  const auto same = probe("permutation_symmetry");
  same->experiment(sums);
  EXPECT_TRUE(says(same->findings(), "symmetric: the order of the earlier tokens does not matter"));
  Mixing weighted(past(), past());
  const auto differs = probe("permutation_symmetry");
  differs->experiment(weighted);
  const Findings found = differs->findings();
  EXPECT_TRUE(says(found, "not symmetric")) << all_sentences(found);
  EXPECT_GT(found.series.at(0).values.at(0), 1e-2);
}

}  // namespace
}  // namespace formwork::test

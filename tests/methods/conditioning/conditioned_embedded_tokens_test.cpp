// Conditioned embedded tokens: specification conditioned_embedded_tokens.
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <cmath>

#include "methods/conditioning/conditioning.h"
#include "methods/conditioning/polar.h"
#include "methods/probe/measures.h"
#include "methods/stem/stem.h"
#include "support/golden.h"
#include "support/gradcheck.h"
#include "support/mixers.h"
#include "support/refusal.h"
#include "support/tiny_model.h"

namespace formwork::test {
namespace {

const char* const kKind = "conditioned_embedded_tokens";

std::shared_ptr<Conditioning> make(int64_t width, const Table& options = {}, bool causal = false) {
  ConditioningSite site;
  static_cast<Site&>(site) = plain_site(width);
  site.causal = causal;
  const auto made = Choice<Conditioning>(kKind).set(options).make(site);
  made->to(at::kDouble);
  return made;
}

Tensor apply(Conditioning& conditioning, const Tensor& x, const Tensor& valid = {}) {
  Stream stream;
  stream.valid = valid;
  return conditioning.forward(x, stream);
}
Tensor conditioned(const Tensor& x, const Table& options = {}, const Tensor& valid = {}) {
  return apply(*make(x.size(2), options), x, valid);
}

Tensor orthogonal(int64_t n, uint64_t seed) {
  return std::get<0>(at::linalg_qr(random_tensor({n, n}, seed)));
}
/// [1,N,D] with these singular values.
Tensor with_values(const Tensor& s, int64_t n, int64_t d, uint64_t seed) {
  const int64_t r = s.size(0);
  return at::matmul(orthogonal(n, seed).narrow(1, 0, r) * s,
                    orthogonal(d, seed + 50).narrow(0, 0, r))
      .unsqueeze(0);
}
/// Singular values from 1 to 1 / kappa in equal ratios.
Tensor with_kappa(double kappa, int64_t n, int64_t d, uint64_t seed = 1) {
  return with_values(at::logspace(0, -std::log10(kappa), std::min(n, d), 10.0, at::kDouble), n, d,
                     seed);
}
double kappa_of(const Tensor& x) {
  return condition_number(x).max().item<double>();
}

Table method(const char* name) {
  return {{"method", Value(name)}};
}

void check_tokens(const GoldenCase& golden) {
  SCOPED_TRACE(golden.file);
  const Tensor x = golden.at("in.x").to(at::kDouble);
  const bool single = x.dim() == 2;
  const auto batch = [&](const Tensor& t) { return single ? t.unsqueeze(0) : t; };
  Table options;
  for (const char* key : {"scale", "min_kappa", "eps"})
    if (golden.config.contains(key) && golden.config[key].is_number())
      options.emplace_back(key, Value(golden.config[key].get<double>()));
  const Tensor valid = golden.has("in.pad_mask") ? batch(golden.at("in.pad_mask")) > 0.5 : Tensor();
  for (const char* way : {"svd", "auto"}) {
    for (const char* gradient : {"through", "detached"}) {
      Table all = options;
      all.emplace_back("method", Value(way));
      all.emplace_back("gradient", Value(gradient));
      const Tensor leaf = batch(x).clone().requires_grad_(true);
      const Tensor y = conditioned(leaf, all, valid);
      const Tensor c = (y - leaf).detach();
      expect_close("y", y, batch(golden.at("out.y")));
      if (golden.has("out.correction"))
        expect_close("correction", c, batch(golden.at("out.correction")));
      if (golden.has("out.singular_values_after"))
        expect_close("after", at::linalg_svdvals(y.detach()),
                     batch(golden.at("out.singular_values_after")));
      (y * batch(golden.at("in.cotangent"))).sum().backward();
      const std::string key =
          std::string(gradient) == "through" ? "grad.in.x" : "grad_detached.in.x";
      if (golden.has(key)) expect_close(key, leaf.grad(), batch(golden.at(key)));
    }
  }
}

// The diagnostic's file belongs to the probe: its test is in probe/measures_test.cpp.
TEST(golden, conditioned_embedded_tokens) {
  for (const GoldenCase& golden : golden_cases(kKind))
    if (golden.has("in.cotangent")) check_tokens(golden);
}

TEST(property, conditioned_embedded_tokens_singular_values) {
  for (const auto& [n, d] : {std::pair{20, 8}, {8, 20}, {9, 9}, {1, 5}, {5, 1}}) {
    for (const double scale : {1.0, 0.3}) {
      const Tensor x = random_tensor({3, n, d}, 4);
      for (const char* way : {"auto", "svd", "gram64"}) {
        const Tensor y = conditioned(x, {{"method", Value(way)}, {"scale", Value(scale)}});
        const Tensor s = at::linalg_svdvals(x), largest = s.narrow(1, 0, 1);
        expect_close("values", at::linalg_svdvals(y), s + scale * largest, 1e-10);
        const Tensor k = condition_number(x);
        expect_close("kappa", condition_number(y), (1 + scale) / (scale + 1 / k), 1e-9);
        const Tensor c = y - x;
        const Tensor square =
            n >= d ? at::matmul(c.transpose(1, 2), c) : at::matmul(c, c.transpose(1, 2));
        expect_close("correction", square,
                     at::eye(std::min(n, d), at::kDouble) * (scale * largest).square().unsqueeze(2),
                     1e-9);
      }
    }
  }
}

TEST(property, conditioned_embedded_tokens_symmetries) {
  const Tensor q = orthogonal(7, 3).unsqueeze(0);
  expect_near("orthogonal", conditioned(3 * q), 6 * q, 1e-12);
  for (const auto& [n, d] : {std::pair{11, 6}, {6, 11}}) {
    const Tensor x = random_tensor({1, n, d}, 5), y = conditioned(x);
    expect_near("scaled", conditioned(7 * x), 7 * y, 1e-10);
    const Tensor r = orthogonal(n, 8), t = orthogonal(d, 9);
    expect_near("turned", conditioned(at::matmul(at::matmul(r, x), t)),
                at::matmul(at::matmul(r, y), t), 1e-10);
  }
}

TEST(property, conditioned_embedded_tokens_gradients) {
  const auto check_at = [](const std::string& name, const Tensor& x, Table options,
                           const Tensor& valid = {}) {
    options.emplace_back("gradient", Value("through"));
    const Tensor leaf = x.clone().requires_grad_(true);
    expect_gradients(name, [&] { return conditioned(leaf, options, valid); }, {{"x", leaf}},
                     {.most_entries = 60});
  };
  for (const char* way : {"svd", "gram64"}) {
    for (const auto& [n, d] : {std::pair{9, 4}, {4, 9}, {5, 5}}) {
      check_at(way, random_tensor({2, n, d}, 6), method(way));
      // Where the backward pass of a singular value decomposition divides by 0.
      check_at(std::string(way) + " equal",
               with_values(
                   at::tensor({2.0, 1.0, 1.0, 0.5, 0.3}, at::kDouble).narrow(0, 0, std::min(n, d)),
                   n, d, 7),
               method(way));
    }
  }
  check_at("scale", random_tensor({1, 6, 4}, 6), {{"scale", 0.4}});
  check_at("iteration", with_kappa(5, 8, 4),
           {{"method", Value("newton_schulz")}, {"iterations", int64_t{40}}});
  check_at("padded", random_tensor({3, 6, 5}, 8), {}, lengths_mask({6, 3, 0}, 6));
  const Tensor leaf = random_leaf({2, 6, 4}, 3), cotangent = random_tensor({2, 6, 4}, 4);
  (conditioned(leaf, {{"gradient", Value("detached")}}) * cotangent).sum().backward();
  expect_near("detached", leaf.grad(), cotangent, 0.0);
}

TEST(property, conditioned_embedded_tokens_methods_agree) {
  for (const auto& [n, d] : {std::pair{64, 128}, {128, 64}}) {
    const Tensor x = with_kappa(1e3, n, d);
    const Tensor exact = conditioned(x, method("svd"));
    const Tensor narrow = x.to(at::kFloat);
    const auto error = [&](const Tensor& y) {
      return ((y.to(at::kDouble) - exact).norm() / exact.norm()).item<double>();
    };
    const Tensor gram = conditioned(narrow, method("gram64"));
    EXPECT_LT(error(gram), 2e-6);
    EXPECT_LT(error(conditioned(narrow)), 2e-6);
    EXPECT_LT(error(conditioned(narrow, method("svd"))), 1e-4);
    const Tensor steps = conditioned(narrow, method("newton_schulz"));
    EXPECT_LE(kappa_of(steps), 2.001);
    EXPECT_GT(kappa_of(steps), 1.9);
    // Half the steps do not reach kappa 1e3.
    const Tensor few =
        conditioned(narrow, {{"method", Value("newton_schulz")}, {"iterations", int64_t{10}}});
    EXPECT_GT(kappa_of(few), 3.0);
    const Tensor steep = with_kappa(1e6, n, d).to(at::kFloat);
    const Tensor wanted = conditioned(steep.to(at::kDouble), method("svd"));
    const Tensor found = conditioned(steep, method("gram64")).to(at::kDouble);
    EXPECT_LT(((found - wanted).norm() / wanted.norm()).item<double>(), 5e-3);
  }
}

TEST(property, conditioned_embedded_tokens_choice_of_method) {
  const auto chosen = [](const Tensor& x, PolarOptions options = {}) {
    return polar_of(x, options, "tokens").method;
  };
  EXPECT_EQ(chosen(with_kappa(10, 8, 6).to(at::kFloat)), "gram64");
  EXPECT_EQ(chosen(with_kappa(1e5, 8, 6).to(at::kFloat)), "gram64");
  EXPECT_EQ(chosen(with_kappa(10, 8, 6)), "gram64");
  EXPECT_EQ(chosen(with_kappa(1e5, 8, 6)), "svd");
  PolarOptions steps;
  steps.method = "newton_schulz";
  EXPECT_EQ(chosen(with_kappa(10, 8, 6), steps), "newton_schulz");
  steps.gradient = "through";
  EXPECT_TRUE(polar_of(with_kappa(10, 8, 6), steps, "tokens").v.defined());
  // The last digits of float64 are not lost.
  const Tensor x = with_kappa(1e5, 8, 6);
  expect_near("digits", conditioned(x), conditioned(x, method("svd")), 1e-12);
}

TEST(property, conditioned_embedded_tokens_padding_is_removed) {
  const Tensor x = random_tensor({4, 9, 6}, 2);
  const Tensor valid = lengths_mask({9, 4, 0, 4}, 9).clone();
  valid[3].copy_(valid[3].flip(0));  // padding on the left
  for (const char* way : {"auto", "svd", "newton_schulz"}) {
    const Tensor y = conditioned(x, method(way), valid);
    expect_near("whole", y.narrow(0, 0, 1), conditioned(x.narrow(0, 0, 1), method(way)), 1e-10);
    expect_near("right", y.narrow(0, 1, 1).narrow(1, 0, 4),
                conditioned(x.narrow(0, 1, 1).narrow(1, 0, 4), method(way)), 1e-10);
    expect_near("left", y.narrow(0, 3, 1).narrow(1, 5, 4),
                conditioned(x.narrow(0, 3, 1).narrow(1, 5, 4), method(way)), 1e-10);
    const Tensor padding = valid.logical_not();
    expect_same_bits("padding", y.index({padding}), x.index({padding}));
  }
}

TEST(property, conditioned_embedded_tokens_without_full_rank) {
  Tensor x = random_tensor({1, 5, 8}, 3);
  x.select(1, 4).copy_(x.select(1, 1));  // a token that occurs twice
  EXPECT_LE(kappa_of(conditioned(x, method("svd"))), 2.0 + 1e-9);
  for (const char* way : {"gram64", "auto"}) {
    const Tensor y = conditioned(x, method(way));
    expect_near("twice", y.select(1, 4), y.select(1, 1), 1e-9);
    const Tensor leaf = x.clone().requires_grad_(true);
    conditioned(leaf, {{"method", Value(way)}, {"gradient", Value("through")}}).sum().backward();
    EXPECT_LT(leaf.grad().abs().max().item<double>(), 1e3);
  }
  // A class token that starts at 0 stays there.
  x.select(1, 0).zero_();
  EXPECT_LT(conditioned(x).select(1, 0).abs().max().item<double>(), 1e-9);
}

TEST(property, conditioned_embedded_tokens_least_condition) {
  const Tensor x = at::cat({with_kappa(1.5, 8, 5), with_kappa(30, 8, 5)});
  for (const char* way : {"auto", "svd", "newton_schulz"}) {
    const Tensor leaf = x.clone().requires_grad_(true);
    const Table options{{"min_kappa", 2.0}, {"method", Value(way)}, {"gradient", Value("through")}};
    const Tensor y = conditioned(leaf, options);
    expect_same_bits("kept", y[0].detach(), x[0]);
    EXPECT_NEAR(kappa_of(y.detach().narrow(0, 1, 1)), 60.0 / 31, 1e-2);
    y.sum().backward();
    expect_near("identity", leaf.grad()[0], at::ones_like(x[0]), 0.0);
  }
}

TEST(property, conditioned_embedded_tokens_running) {
  const int64_t width = 6;
  const auto running = make(width, {{"scope", Value("running")}, {"decay", 0.9}}, true);
  const auto moment = [&] { return running->named_tensors().at("second_moment"); };
  const Tensor x = random_tensor({2, 7, width}, 3) * at::logspace(0, -1, width, 10.0, at::kDouble);
  const Tensor valid = lengths_mask({7, 4}, 7);
  // The map of the start is a number; it is used before the batch changes it.
  const double start = 1 + std::sqrt(1 / (1 + 1e-4));
  const Tensor y = apply(*running, x, valid);
  expect_near("first", y, at::where(valid.unsqueeze(-1), x * start, x), 1e-12);
  const Tensor real = x.index({valid});
  const Tensor wanted = 0.9 * at::eye(width, at::kDouble) + 0.1 * at::matmul(real.t(), real) / 11.0;
  expect_near("moment", moment(), wanted, 1e-12);
  for (int64_t i = 0; i < 200; ++i) apply(*running, x);
  running->eval();
  const Tensor before = moment().clone();
  const Tensor r = before + 1e-4 * at::linalg_eigvalsh(before)[-1] * at::eye(width, at::kDouble);
  const auto [values, vectors] = at::linalg_eigh(r);
  const Tensor root = at::matmul(vectors / values.sqrt(), vectors.t());
  const Tensor map = at::eye(width, at::kDouble) + root * at::linalg_eigvalsh(before)[-1].sqrt();
  expect_near("map", apply(*running, x), at::matmul(x, map), 1e-9);
  expect_same_bits("evaluation", moment(), before);
  EXPECT_LT(kappa_of(apply(*running, x).view({1, 14, width})), 2.1);
  EXPECT_GT(kappa_of(x.view({1, 14, width})), 5);
  // Causal: a prefix gives the prefix.
  expect_near("prefix", apply(*running, x.narrow(1, 0, 3)), apply(*running, x).narrow(1, 0, 3),
              1e-12);
  const Tensor leaf = random_leaf({1, 4, width}, 5);
  expect_gradients("running", [&] { return apply(*running, leaf); }, {{"x", leaf}});
  // A changed buffer, as a loaded checkpoint has, changes the map.
  moment().copy_(at::eye(width, at::kDouble));
  expect_near("loaded", apply(*running, x), x * start, 1e-12);
}

std::shared_ptr<Stem> table_stem(const Table& options, int64_t vocabulary, int64_t width) {
  StemSite site;
  static_cast<Site&>(site) = plain_site(width);
  site.input.vocabulary = vocabulary;
  const auto stem = Choice<Stem>("conditioned_token").set(options).make(site);
  stem->to(at::kDouble);
  return stem;
}

TEST(property, conditioned_embedded_tokens_table) {
  for (const int64_t vocabulary : {4, 13}) {
    const auto stem = table_stem({{"gradient", Value("through")}}, vocabulary, 6);
    const Tensor weight = stem->table();
    const Tensor ids = at::randint(vocabulary, {2, 9}, generator_of(RandomStream(4)), at::kLong);
    const auto run_stem = [&](const Tensor& of) {
      Stream stream;
      return stem->forward(of, stream);
    };
    const auto expected = [&] {
      const c10::NoGradGuard no_grad;
      return at::embedding(conditioned(weight.unsqueeze(0), method("svd")).squeeze(0), ids);
    };
    const Tensor y = run_stem(ids);
    expect_near("table", y, expected(), 1e-10);
    expect_same_bits("prefix", run_stem(ids.narrow(1, 0, 4)), y.narrow(1, 0, 4));
    {
      const c10::NoGradGuard no_grad;
      Tensor(weight).mul_(at::arange(1, 7).to(at::kDouble));  // an optimizer's step
    }
    expect_near("changed", run_stem(ids), expected(), 1e-10);
    const auto changed = [&] {
      {
        const c10::NoGradGuard no_grad;
        Tensor(weight).add_(0.0);  // differences change numbers behind the stem's back
      }
      return run_stem(ids);
    };
    expect_gradients("table", changed, {{"weight", weight}});
  }
  const auto stem = table_stem({{"scale_vectors", true}, {"scale", 2.0}}, 13, 6);
  Stream stream;
  const Tensor rows = stem->forward(at::arange(13, at::kLong).unsqueeze(0), stream).squeeze(0);
  const Tensor s = at::linalg_svdvals(stem->table());
  expect_close("scaled", at::linalg_svdvals(rows.detach()), std::sqrt(6.0) * (s + 2 * s[0]), 1e-9);
}

TEST(property, conditioned_embedded_tokens_in_models) {
  const auto options_of = [](const TaskForm& task, const Table& options) {
    return tiny_options(task, [&](ModelOptions& o) {
      o.conditioning.select(kKind, "conditioning");
      o.conditioning.set(options);
    });
  };
  const TaskForm causal = token_task("decoder"), both = token_task("encoder");
  expect_error([&] { validate(options_of(causal, {}), causal); }, Fault::request,
               {"model.conditioning.kind", kKind, "sees the future"});
  validate(options_of(both, {}), both);
  const Table running{{"scope", Value("running")}};
  validate(options_of(causal, running), causal);
  Model model(options_of(causal, running), causal, 3);
  const Tensor ids = tiny_tokens();
  Tensor changed = ids.clone();
  changed.select(1, kLength - 1).add_(1).remainder_(kVocabulary);
  model.eval();
  expect_same_bits("causal", run(model, ids).narrow(1, 0, kLength - 1),
                   run(model, changed).narrow(1, 0, kLength - 1));
  const ModelOptions table =
      tiny_options(causal, [](ModelOptions& o) { o.stem.select("conditioned_token", "stem"); });
  validate(table, causal);
  Model with_table(table, causal, 3);
  expect_same_bits("table", run(with_table, ids).narrow(1, 0, kLength - 1),
                   run(with_table, changed).narrow(1, 0, kLength - 1));
}

TEST(property, conditioned_embedded_tokens_half_precision) {
  const Tensor x = random_tensor({2, 12, 8}, 4, at::kBFloat16);
  const Tensor y = conditioned(x, {{"gradient", Value("through")}});
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  expect_close("bfloat16", y.to(at::kDouble), conditioned(x.to(at::kDouble)), 1e-2);
}

TEST(unit, conditioned_embedded_tokens_refusals) {
  const Tensor x = random_tensor({2, 5, 4}, 4);
  Tensor empty = x.clone();
  empty[1].zero_();
  for (const char* way : {"auto", "svd", "gram64", "newton_schulz"}) {
    expect_error([&] { conditioned(empty, method(way)); }, Fault::request,
                 {"model.conditioning.kind", "are 0"});
    expect_error([&] { conditioned(x / 0.0, method(way)); }, Fault::failure, {"not finite"});
  }
  const auto evaluated = make(4);
  evaluated->eval();
  expect_same_bits("zeros", apply(*evaluated, empty)[1], empty[1]);
  expect_error([] { make(4, {}, true); }, Fault::request,
               {"model.conditioning.scope", "running", "conditioned_token"});
  expect_error(
      [] {
        make(4, {{"scope", Value("table")}});
      },
      Fault::request, {"scope", "conditioned_token"});
  expect_error([] { make(4, {{"scale", 0.0}}); }, Fault::request, {"scale"});
  expect_error([] { make(4, {{"iterations", int64_t{0}}}); }, Fault::request, {"iterations"});
  expect_error([] { make(4, {{"decay", 1.0}}); }, Fault::request, {"decay"});
}

}  // namespace
}  // namespace formwork::test

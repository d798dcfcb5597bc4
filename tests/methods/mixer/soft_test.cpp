#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "methods/mixer/soft_inverse.h"
#include "support/gradcheck.h"
#include "support/mixers.h"
#include "training/precision.h"

namespace formwork::test {
namespace {

Value grid_of(int64_t rows, int64_t columns) {
  return List{Value(rows), Value(columns)};
}

MixerCase soft_case(Table options, int64_t width = 12, int64_t heads = 2) {
  return {"soft", std::move(options), false, width, heads};
}

/// Keeps what a mixer shows.
struct Seen final : Observer {
  std::map<std::string, Tensor> tensors;
  void see(const std::string& point, const Tensor& tensor) override {
    tensors[point] = tensor.detach();
  }
};

Seen seen_in(Mixer& mixer, const Tensor& x) {
  Seen seen;
  Stream stream;
  stream.place = "soft";
  stream.observer = &seen;
  mixer.forward(x, stream);
  return seen;
}

/// The options of a reference case; what the authors' program fixes is as it is there.
Table golden_options(const GoldenCase& golden) {
  const bool normalised = golden.option<std::string>("variant", "soft") == "soft_norm";
  Table options{
      {"variant", normalised ? "soft_norm" : "soft"},
      {"ratio", golden.option<int64_t>("ratio", 1)},
      {"pooling", golden.option<std::string>("pooling", "conv")},
      {"conv_size", golden.has("param.conv_skip.weight")
                        ? golden.at("param.conv_skip.weight").size(3)
                        : int64_t{0}},
      {"max_iter", golden.option<int64_t>("max_iter", 20)},
      {"ln_eps", golden.option("ln_eps", 1e-5)},
      {"inverse", golden.option<std::string>("inverse", "newton")},
      {"inverse_grad",
       golden.option<std::string>("inverse_grad", normalised ? "autograd" : "closed")},
      {"alpha_scope", golden.option<std::string>("alpha_scope", normalised ? "batch" : "matrix")},
      {"bias", golden.has("param.q_proj.bias")}};
  if (golden.option<int64_t>("ratio", 1) > 1)
    options.emplace_back("pool_norm", golden.has("param.pool_norm.weight"));
  if (golden.config.contains("ridge") && !golden.config.at("ridge").is_null())
    options.emplace_back("ridge", golden.option("ridge", 0.0));
  if (golden.config.contains("grid") && !golden.config.at("grid").is_null()) {
    const auto grid = golden.config.at("grid").get<std::vector<int64_t>>();
    options.emplace_back("grid", grid_of(grid[0], grid[1]));
  }
  return options;
}

TEST(golden, soft) {
  for (const GoldenCase& golden : golden_cases("soft")) {
    SCOPED_TRACE(golden.file);
    const MixerCase what = soft_case(golden_options(golden), golden.at("in.x").size(2),
                                     golden.option<int64_t>("H", 1));
    const auto mixer = what.make();
    check_golden(golden, *mixer);
    const Seen seen = seen_in(*mixer, golden.at("in.x"));
    for (const char* point : {"kernel_bottleneck", "inverse"})
      if (golden.has(std::string("out.") + point))
        expect_close(point, seen.tensors.at(std::string("soft.") + point),
                     golden.at(std::string("out.") + point));
  }
}

TEST(golden, soft_with_every_inverse) {
  // The reference's iterations have converged: every way to the inverse gives its numbers.
  for (const GoldenCase& golden : golden_cases("soft"))
    for (const char* inverse : {"newton", "cholesky"})
      for (const char* gradient : {"closed", "autograd"}) {
        SCOPED_TRACE(golden.file + " " + inverse + " " + gradient);
        if (golden.option<int64_t>("max_iter", 20) < 20) continue;
        Table options = golden_options(golden);
        for (auto& [key, value] : options) {
          if (key == "inverse") value = Value(inverse);
          if (key == "inverse_grad") value = Value(gradient);
          if (key == "alpha_scope") value = Value("matrix");
        }
        const auto mixer =
            soft_case(options, golden.at("in.x").size(2), golden.option<int64_t>("H", 1)).make();
        check_golden(golden, *mixer);
      }
}

// ---- the definition, written down a second time

Tensor distances_kernel(const Tensor& a, const Tensor& b) {
  return (-0.5 * (a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1)).exp();
}

/// The matrix [...,N,N] that maps values to outputs, for queries and landmarks.
Tensor attention_matrix(const Tensor& q, const Tensor& landmarks, bool normalised, double ridge) {
  const Tensor across = distances_kernel(q, landmarks);
  const Tensor within = distances_kernel(landmarks, landmarks);
  Tensor inverse = at::linalg_inv(within + ridge * at::eye(within.size(-1), within.options()));
  if (normalised) {
    const Tensor scale = within.sum(-1).rsqrt();
    inverse = scale.unsqueeze(-1) * inverse * scale.unsqueeze(-2);
  }
  return at::matmul(at::matmul(across, inverse), across.transpose(-2, -1));
}

TEST(property, soft_explicit_form) {
  const Tensor x = random_tensor({2, 24, 12}, 1);
  for (const bool normalised : {false, true})
    for (const bool image : {true, false})
      for (const char* inverse : {"newton", "cholesky"}) {
        Table options{{"variant", normalised ? "soft_norm" : "soft"},
                      {"ratio", int64_t{2}},
                      {"conv_size", int64_t{3}},
                      {"max_iter", int64_t{40}},
                      {"inverse", inverse}};
        if (image) options.emplace_back("grid", grid_of(4, 6));
        const auto mixer = soft_case(options).make();
        const c10::NoGradGuard no_grad;
        const auto p = mixer->named_tensors();
        const auto map = [&](const Tensor& t, const std::string& name) {
          return at::linear(t, p.at(name + ".weight"), p.at(name + ".bias"));
        };
        const auto heads = [](const Tensor& t) { return t.unflatten(2, {2, 6}).transpose(1, 2); };
        const Tensor q = heads(map(x, "q_proj")) / std::pow(6.0, 0.25), v = heads(map(x, "v_proj"));
        const int64_t rows = image ? 4 : 1, step = image ? 2 : 1;
        const Tensor picture = q.transpose(2, 3).reshape({4, 6, rows, 24 / rows});
        const Tensor pooled = at::conv2d(picture, p.at("pool.weight"), {}, {step, 2});
        const Tensor tokens = pooled.flatten(2).transpose(1, 2).unflatten(0, {2, 2});
        const Tensor landmarks = at::gelu(
            at::layer_norm(tokens, {6}, p.at("pool_norm.weight"), p.at("pool_norm.bias"), 1e-5));
        Tensor y = at::matmul(attention_matrix(q, landmarks, normalised, normalised ? 0 : 0.01), v);
        for (int64_t head = 0; head < 2; ++head)
          for (int64_t channel = 0; channel < 6; ++channel) {
            const Tensor plane = v.select(1, head).select(2, channel).reshape({2, 1, rows, -1});
            const Tensor kernel = p.at("conv_skip.weight").narrow(0, head, 1);
            y.select(1, head).select(2, channel) +=
                at::conv2d(plane, kernel, {}, {1, 1}, {image ? 1 : 0, 1}).flatten(1);
          }
        expect_near(inverse, run(*mixer, x), map(y.transpose(1, 2).flatten(2), "out_proj"), 1e-9);
      }
}

TEST(property, soft_landmark_kernel) {
  for (const auto& [spread, bound] : std::map<double, double>{{1.0, 1e-12}, {1e4, 0.0}}) {
    const auto mixer = soft_case({{"pool_norm", false}, {"pooling", "stride"}}).make();
    const Tensor k = seen_in(*mixer, spread * random_tensor({2, 40, 12}, 2))
                         .tensors.at("soft.kernel_bottleneck");
    expect_near("symmetric", k, k.transpose(-2, -1), bound);
    expect_near("diagonal", k.diagonal(0, -2, -1), at::ones({2, 2, 10}, at::kDouble), 0.0);
    EXPECT_GE(at::linalg_eigvalsh(k).min().item<double>(), -1e-12);
    EXPECT_GE(k.min().item<double>(), 0.0);
  }
}

TEST(property, soft_with_landmarks_for_all_is_the_full_kernel) {
  // The tokens of a block are alike: each landmark is its tokens, and every token is a landmark.
  const Tensor x = random_tensor({2, 6, 12}, 3).repeat_interleave(3, 1);
  const Tensor image = random_tensor({2, 2, 3, 12}, 3)
                           .repeat_interleave(3, 1)
                           .repeat_interleave(3, 2)
                           .reshape({2, 54, 12});
  for (const char* pooling : {"avg", "stride"})
    for (const char* inverse : {"newton", "cholesky"})
      for (const bool two : {false, true}) {
        Table options{{"conv_size", int64_t{0}}, {"pool_norm", false},
                      {"pooling", pooling},      {"ridge", 0.0},
                      {"inverse", inverse},      {"max_iter", int64_t{40}}};
        if (two) options.emplace_back("grid", grid_of(6, 9));
        Table full = options;
        options.emplace_back("ratio", int64_t{3});
        full.emplace_back("ratio", int64_t{1});
        const Tensor& tokens = two ? image : x;
        expect_near(pooling, run(*soft_case(options).make(), tokens),
                    run(*soft_case(full).make(), tokens), 1e-9);
      }
}

TEST(property, soft_does_not_know_the_origin) {
  const auto mixer = soft_case({{"pooling", "avg"}, {"pool_norm", false}}).make();
  const Tensor x = random_tensor({2, 16, 12}, 4);
  const c10::NoGradGuard no_grad;
  const Tensor before = run(*mixer, x);
  Tensor(mixer->named_tensors().at("q_proj.bias")).add_(random_tensor({12}, 5), 2.0);
  expect_near("shifted queries", run(*mixer, x), before, 1e-10);
}

TEST(property, soft_rows_of_a_batch_are_independent) {
  const Tensor x = random_tensor({4, 16, 12}, 6);
  const Tensor order = at::tensor({2, 0, 3, 1}, at::kLong);
  for (const char* variant : {"soft", "soft_norm"}) {
    const auto mixer = soft_case({{"variant", variant}, {"max_iter", int64_t{4}}}).make();
    const Tensor y = run(*mixer, x);
    expect_same_bits(variant, run(*mixer, x.index_select(0, order)), y.index_select(0, order));
    expect_near(variant, run(*mixer, x.narrow(0, 1, 1)), y.narrow(0, 1, 1), 1e-12);
    // The authors' bound is the batch's, which shows before the iteration has converged.
    const auto batch =
        soft_case({{"variant", variant}, {"max_iter", int64_t{4}}, {"alpha_scope", "batch"}})
            .make();
    const Tensor gap = run(*batch, x.narrow(0, 1, 1)) - run(*batch, x).narrow(0, 1, 1);
    const Tensor other = run(*batch, x.narrow(0, 2, 1)) - run(*batch, x).narrow(0, 2, 1);
    EXPECT_GT(std::max(gap.abs().max().item<double>(), other.abs().max().item<double>()), 1e-9);
  }
}

TEST(property, soft_padding_of_a_row_does_not_matter) {
  const Tensor x = random_tensor({2, 17, 12}, 7);
  for (const char* variant : {"soft", "soft_norm"})
    for (const char* pooling : {"conv", "avg", "stride"})
      for (const int64_t ratio : {1, 4})
        for (const char* inverse : {"newton", "cholesky"}) {
          const auto mixer = soft_case({{"variant", variant},
                                        {"pooling", pooling},
                                        {"ratio", ratio},
                                        {"inverse", inverse}})
                                 .make();
          for (const int64_t kept : {3, 8, 10}) {
            const Tensor valid = at::arange(17).lt(kept).expand({2, 17});
            const Tensor spoiled = x.masked_fill(valid.logical_not().unsqueeze(-1), NAN);
            expect_near(pooling, run(*mixer, spoiled, valid).narrow(1, 0, kept),
                        run(*mixer, x.narrow(1, 0, kept)), 1e-10);
          }
        }
}

TEST(property, soft_without_landmarks_has_no_order) {
  const Table options{{"ratio", int64_t{1}}, {"conv_size", int64_t{0}}};
  const auto mixer = soft_case(options).make();
  const Tensor x = random_tensor({2, 9, 12}, 8);
  const Tensor order = at::randperm(9, generator_of(RandomStream(3)), at::kLong);
  expect_near("order", run(*mixer, x.index_select(1, order)), run(*mixer, x).index_select(1, order),
              1e-12);
  for (const Parameter& parameter : mixer->parameters())
    EXPECT_FALSE(parameter.name.starts_with("pool")) << parameter.name;
}

// ---- the inverse

/// [3,m,m] kernels of m points in the plane, and a ridge that bounds their condition.
Tensor kernels(int64_t m, double ridge, uint64_t seed) {
  const Tensor points = 2 * random_tensor({3, m, 2}, seed);
  return distances_kernel(points, points) + ridge * at::eye(m, at::kDouble);
}

double spectral_error(const Tensor& p, const Tensor& v) {
  const Tensor error = at::eye(p.size(-1), at::kDouble) - at::matmul(p, v);
  return at::linalg_svdvals(error).max().item<double>();
}

TEST(property, soft_newton_converges_quadratically) {
  const Tensor p = kernels(12, 0.1, 1);
  const Tensor values = at::linalg_eigvalsh(p);
  ASSERT_LE((values.select(1, 11) / values.select(1, 0)).max().item<double>(), 200.0);
  const Tensor alpha = newton_start(p, 0.0, false);
  EXPECT_TRUE((alpha.flatten() < 2 / values.select(1, 11).square()).all().item<bool>());
  double last = spectral_error(p, alpha * p);
  for (int64_t steps = 1; steps <= 14; ++steps) {
    const double error =
        spectral_error(p, newton_inverse(p, alpha, steps, InverseGradient::closed));
    if (last > 1e-5) {
      EXPECT_NEAR(error, last * last, 1e-9 + 1e-6 * error) << steps;
    }
    last = error;
  }
  EXPECT_LE(spectral_error(p, newton_inverse(p, alpha, 20, InverseGradient::closed)), 1e-10);
}

TEST(property, soft_newton_start_is_safe) {
  // Rows that all sum to the same, a large ridge: the published starts would not do.
  for (const double ridge : {0.0, 0.01, 0.5, 30.0})
    for (const int64_t m : {1, 2, 5}) {
      const Tensor kernel = 0.7 * at::eye(m, at::kDouble) + 0.3 * at::ones({m, m}, at::kDouble);
      const Tensor p = (kernel + ridge * at::eye(m, at::kDouble)).unsqueeze(0);
      const Tensor alpha = newton_start(kernel.unsqueeze(0), ridge, false);
      const Tensor inverse = newton_inverse(p, alpha, 20, InverseGradient::closed);
      expect_near("inverse", inverse, at::linalg_inv(p), 1e-12);
    }
  const Tensor two = at::tensor({1.0, 0.3, 0.3, 1.0}, at::kDouble).view({1, 2, 2});
  const Tensor released =
      newton_inverse(two, released_newton_start(two), 20, InverseGradient::closed);
  EXPECT_GT(spectral_error(two, released), 0.9);
}

TEST(property, soft_inverse_gradients_agree) {
  const Tensor p = kernels(9, 0.05, 2), t = random_tensor({3, 9, 4}, 3);
  const Tensor cotangent = random_tensor({3, 9, 4}, 4);
  const auto gradients = [&](const std::function<Tensor(const Tensor&, const Tensor&)>& f) {
    const Tensor a = p.clone().requires_grad_(true), b = t.clone().requires_grad_(true);
    const Tensor y = f(a, b);
    auto all = torch::autograd::grad({(y * cotangent).sum()}, {a, b});
    // A symmetric matrix moves only along symmetric ones.
    all[0] = 0.5 * (all[0] + all[0].transpose(-2, -1));
    all.push_back(y.detach());
    return all;
  };
  const auto exact =
      gradients([](const Tensor& a, const Tensor& b) { return at::matmul(at::linalg_inv(a), b); });
  for (const auto way : {InverseGradient::closed, InverseGradient::autograd}) {
    const auto newton = gradients([&](const Tensor& a, const Tensor& b) {
      return at::matmul(newton_inverse(a, newton_start(a, 0.0, false), 30, way), b);
    });
    const auto cholesky = gradients(
        [&](const Tensor& a, const Tensor& b) { return cholesky_inverse_times(a, b, way); });
    for (size_t i = 0; i < exact.size(); ++i) {
      expect_close("newton", newton[i], exact[i], 1e-9);
      expect_close("cholesky", cholesky[i], exact[i], 1e-9);
    }
  }
}

TEST(property, soft_gradients) {
  const Table image{{"grid", grid_of(4, 6)}, {"ratio", int64_t{2}}};
  const Table row{{"ratio", int64_t{5}}};
  for (const Table& shape : {image, row})
    for (const char* variant : {"soft", "soft_norm"})
      for (const char* pooling : {"conv", "avg", "stride"})
        for (const char* inverse : {"newton", "cholesky"})
          for (const char* gradient : {"closed", "autograd"}) {
            Table options = shape;
            options.insert(options.end(), {{"variant", variant},
                                           {"pooling", pooling},
                                           {"inverse", inverse},
                                           {"inverse_grad", gradient},
                                           // autograd is right before convergence too
                                           {"max_iter", int64_t{*gradient == 'a' ? 5 : 40}}});
            const auto mixer = soft_case(options).make();
            const Tensor valid =
                shape.size() == 1 ? lengths_mask({24, 17}, 24) : Tensor();  // the row
            NamedLeaves leaves{{"x", random_leaf({2, 24, 12}, 9)}};
            for (const Parameter& parameter : mixer->parameters())
              leaves.emplace_back(parameter.name, parameter.tensor);
            GradientCheck check;
            check.most_entries = 4;
            expect_gradients(
                join_text(variant, " ", pooling, " ", inverse, " ", gradient),
                [&] { return run(*mixer, leaves[0].second, valid); }, leaves, check);
          }
}

TEST(property, soft_survives_landmarks_that_are_alike) {
  for (const char* variant : {"soft", "soft_norm"})
    for (const char* inverse : {"newton", "cholesky"}) {
      const auto mixer = soft_case({{"variant", variant}, {"inverse", inverse}}).make();
      mixer->to(at::kFloat);
      const Tensor x = at::ones({2, 40, 12}).requires_grad_(true);
      const Tensor y = run(*mixer, x);
      y.square().sum().backward();
      EXPECT_TRUE(at::isfinite(y).all().item<bool>()) << variant << " " << inverse;
      EXPECT_TRUE(at::isfinite(x.grad()).all().item<bool>()) << variant << " " << inverse;
      EXPECT_LE(y.abs().max().item<double>(), 1e3) << variant << " " << inverse;
    }
}

TEST(property, soft_norm_bounds_the_spectrum) {
  // One landmark for four tokens: the map's norm grows with N for soft, hardly for soft_norm.
  const auto norm_at = [](int64_t n, bool normalised) {
    const Tensor q = 0.5 * random_tensor({n, 4}, 10);
    const Tensor landmarks = q.view({n / 4, 4, 4}).select(1, 0);
    const Tensor map = attention_matrix(q, landmarks, normalised, 0.01);
    return at::linalg_svdvals(map).max().item<double>();
  };
  const double growth = norm_at(512, false) / norm_at(64, false);
  const double normalised_growth = norm_at(512, true) / norm_at(64, true);
  RecordProperty("soft", std::to_string(growth));
  RecordProperty("soft_norm", std::to_string(normalised_growth));
  EXPECT_GT(growth, 6.0);
  EXPECT_LT(normalised_growth, 1.5);
}

TEST(property, soft_computes_in_float32) {
  const auto mixer = soft_case({{"inverse", "cholesky"}}).make();
  mixer->to(at::kFloat);
  const c10::NoGradGuard no_grad;
  const Tensor x = random_tensor({1, 400, 12}, 11, at::kFloat);
  const Tensor exact = run(*mixer, x);
  const PrecisionGuard guard("bfloat16");
  expect_close("bfloat16", run(*mixer, x).to(at::kFloat), exact, 3e-2);
}

TEST(unit, soft_options) {
  const auto says = [](Table options, const std::string& part) {
    expect_refused([&] { soft_case(options).make(); }, part);
  };
  says({{"conv_size", int64_t{4}}}, "an odd number");
  says({{"grid", List{Value(int64_t{4})}}}, "two numbers");
  says({{"grid", grid_of(4, 6)}, {"ratio", int64_t{4}}}, "ratio");
  says({{"ratio", int64_t{0}}}, "ratio");
  says({{"max_iter", int64_t{0}}}, "max_iter");
  says({{"ridge", -1.0}}, "ridge");
  MixerCase causal = soft_case({});
  causal.causal = true;
  expect_refused([&] { causal.make(); }, "sees the future");
  EXPECT_FALSE(Choice<Mixer>("soft").traits().causal);
  const auto mixer = soft_case({{"grid", grid_of(4, 8)}}).make();
  expect_refused([&] { run(*mixer, random_tensor({1, 33, 12}, 1)); }, "33 tokens");
  expect_refused(
      [&] {
        run(*mixer, random_tensor({1, 32, 12}, 1), lengths_mask({30}, 32));
      },
      "padded");
  run(*mixer, random_tensor({1, 32, 12}, 1), lengths_mask({32}, 32));
  expect_refused([&] { mixer->make_state(1, 8, at::kDouble); }, "both ways");
}

}  // namespace
}  // namespace formwork::test

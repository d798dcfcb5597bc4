// The properties that the specification of the baseline optimizers names.
#include <gtest/gtest.h>

#include <cmath>

#include "methods/optimizer/optimizer_support.h"
#include "support/golden.h"

namespace formwork {
namespace {

// AdamW written out.
TEST(property, optimizer_baselines_fused_is_reference) {
  for (const auto& [type, allowed] : {std::pair{at::kDouble, 1e-12}, std::pair{at::kFloat, 1e-6}}) {
    const OptimizerSite site = site_of(type);
    const auto optimizer = make("adamw", site, {{"weight_decay", 0.1}, {"beta2", 0.95}});
    std::vector<Tensor> p = values(site), m, v;
    for (Tensor& x : p) {
      x = x.to(at::kDouble);
      m.push_back(at::zeros_like(x));
      v.push_back(at::zeros_like(x));
    }
    for (int t = 1; t <= 20; ++t) {
      give_gradients(site, t);
      for (size_t i = 0; i < p.size(); ++i) {
        const Tensor g = site.parameters[i].tensor.grad().to(at::kDouble);
        p[i] = p[i] * (1 - 1e-3 * 0.1);
        m[i] = 0.9 * m[i] + 0.1 * g;
        v[i] = 0.95 * v[i] + 0.05 * g * g;
        p[i] = p[i] - 1e-3 / (1 - std::pow(0.9, t)) * m[i] /
                          (v[i].sqrt() / std::sqrt(1 - std::pow(0.95, t)) + 1e-8);
      }
      optimizer->step(1.0);
    }
    for (size_t i = 0; i < p.size(); ++i)
      EXPECT_LT((values(site)[i].to(at::kDouble) - p[i]).abs().max().item<double>(), allowed);
  }
}

TEST(property, optimizer_baselines_adam_without_decay_is_adamw) {
  const OptimizerSite a = site_of(), b = site_of();
  const auto adam = make("adam", a), adamw = make("adamw", b, {{"weight_decay", 0.0}});
  for (int t = 0; t < 5; ++t) {
    give_gradients(a, t);
    give_gradients(b, t);
    adam->step(0.5);
    adamw->step(0.5);
  }
  EXPECT_LT(largest_gap(values(a), values(b)), 1e-15);
}

TEST(property, optimizer_baselines_decay_conventions) {
  const OptimizerSite a = site_of(), b = site_of(), c = site_of();
  const auto coupled = make("adamw", a, {{"lr", 0.01}, {"weight_decay", 0.1}});
  const auto apart =
      make("adamw", b, {{"weight_decay", 0.001}, {"lr", 0.01}, {"decay", "independent"}});
  const auto following = make("adamw", c,
                              {{"weight_decay", 0.001},
                               {"lr", 0.01},
                               {"decay", "independent"},
                               {"independent_follows_schedule", true}});
  for (int t = 0; t < 6; ++t) {
    for (const OptimizerSite& site : {a, b, c}) give_gradients(site, t);
    const double factor = t < 3 ? 1.0 : 0.5;
    coupled->step(factor);
    apart->step(factor);
    following->step(factor);
    EXPECT_LT(largest_gap(values(a), values(c)), 1e-14);
    if (t < 3) {
      EXPECT_LT(largest_gap(values(a), values(b)), 1e-14);
    }
  }
  EXPECT_GT(largest_gap(values(a), values(b)), 1e-6);
}

TEST(property, optimizer_baselines_first_adamw_step) {
  const OptimizerSite site = site_of();
  const auto optimizer = make("adamw", site, {{"weight_decay", 0.0}, {"eps", 1e-3}});
  const std::vector<Tensor> before = values(site);
  give_gradients(site, 0);
  optimizer->step(1.0);
  for (size_t i = 0; i < before.size(); ++i) {
    const Tensor g = site.parameters[i].tensor.grad();
    const Tensor moved = before[i] - values(site)[i];
    EXPECT_LT((moved - 1e-3 * g / (g.abs() + 1e-3)).abs().max().item<double>(), 1e-15);
  }
}

TEST(property, optimizer_baselines_sign_flip) {
  for (const std::string& kind : kinds()) {
    std::vector<std::vector<Tensor>> moves;
    for (const double sign : {1.0, -1.0}) {
      const OptimizerSite site = site_of();
      const auto optimizer = make(kind, site, {{"weight_decay", 0.0}});
      const std::vector<Tensor> before = values(site);
      for (int t = 0; t < 2; ++t) {
        give_gradients(site, 0, sign);
        optimizer->step(1.0);
      }
      moves.push_back({});
      for (size_t i = 0; i < before.size(); ++i)
        moves.back().push_back(sign * (values(site)[i] - before[i]));
    }
    // Adafactor measures the second step by the parameter, which differs by then.
    EXPECT_LT(largest_gap(moves[0], moves[1]), kind == "adafactor" ? 1e-2 : 1e-12) << kind;
    EXPECT_GT(moves[0][0].abs().max().item<double>(), 0) << kind;
  }
}

TEST(property, optimizer_baselines_lion_moves_by_its_rate) {
  const OptimizerSite site = site_of();
  const auto optimizer = make("lion", site, {{"lr", 0.01}});
  for (int t = 0; t < 4; ++t) {
    const std::vector<Tensor> before = values(site);
    give_gradients(site, t);
    optimizer->step(0.5);
    for (size_t i = 0; i < before.size(); ++i)
      EXPECT_LT(((values(site)[i] - before[i]).abs() - 0.005).abs().max().item<double>(), 1e-15);
  }
  const std::vector<Tensor> before = values(site_of());
  const OptimizerSite still = site_of();
  const auto lion = make("lion", still);
  for (const Parameter& parameter : still.parameters)
    parameter.tensor.mutable_grad() = at::zeros_like(parameter.tensor);
  lion->step(1.0);
  EXPECT_EQ(largest_gap(values(still), before), 0);  // sign(0) = 0
}

TEST(property, optimizer_baselines_adafactor_bounds_its_step) {
  const OptimizerSite site = site_of();
  const auto optimizer = make("adafactor", site, {{"lr", 0.3}, {"d", 0.7}});
  for (int t = 1; t <= 6; ++t) {
    const std::vector<Tensor> before = values(site);
    give_gradients(site, t, t == 4 ? 100.0 : 1.0);
    optimizer->step(1.0);
    for (size_t i = 0; i < before.size(); ++i) {
      const double size = before[i].square().mean().sqrt().item<double>();
      const double bound = 0.7 * std::max(1e-3, size) * std::min(0.3, 1 / std::sqrt(t));
      const double moved = (values(site)[i] - before[i]).square().mean().sqrt().item<double>();
      EXPECT_LE(moved, bound * (1 + 1e-12));
      if (t == 4) {
        EXPECT_NEAR(moved, bound, 1e-9 * bound);
      }
    }
  }
}

TEST(property, optimizer_baselines_soap_without_basis_is_adam) {
  // ε outside the correction and one step less are all that differ; ε = 0 removes the first.
  const OptimizerSite a = site_of(), b = site_of();
  const auto soap =
      make("soap", a, {{"max_precond_dim", int64_t{0}}, {"eps", 0.0}, {"weight_decay", 0.0}});
  const auto adam = make("adam", b, {{"lr", 3e-3}, {"beta1", 0.95}, {"beta2", 0.95}, {"eps", 0.0}});
  give_gradients(a, 99);
  soap->step(1.0);
  EXPECT_EQ(largest_gap(values(a), values(b)), 0);
  for (int t = 0; t < 12; ++t) {
    give_gradients(a, t);
    give_gradients(b, t);
    soap->step(1.0);
    adam->step(1.0);
  }
  EXPECT_LT(largest_gap(values(a), values(b)), 1e-12);
}

TEST(property, optimizer_baselines_shampoo_whitens) {
  // With β₁ = 0 and tiny ε the first step is the orthogonal factor of G, as long as AdamW's.
  const OptimizerSite site = site_of();
  const auto optimizer =
      make("shampoo", site, {{"beta1", 0.0}, {"eps", 1e-14}, {"weight_decay", 0.0}});
  const std::vector<Tensor> before = values(site);
  give_gradients(site, 0);
  optimizer->step(1.0);
  for (const size_t i : {0, 1}) {
    const Tensor g = site.parameters[i].tensor.grad();
    const auto [u, s, vh] = at::linalg_svd(g, /*full_matrices=*/false);
    const double length =
        std::sqrt(static_cast<double>(g.numel()) / static_cast<double>(s.numel()));
    const Tensor expected = -1e-3 * length * at::matmul(u, vh);
    EXPECT_LT((values(site)[i] - before[i] - expected).abs().max().item<double>(), 1e-8);
  }
}

TEST(property, optimizer_baselines_shampoo_by_its_formula) {
  OptimizerSite site = site_of();
  site.parameters.resize(1);
  const auto optimizer =
      make("shampoo", site,
           {{"graft", "sgd"}, {"eps", 0.01}, {"root_frequency", int64_t{2}}, {"lr", 0.1}});
  Tensor p = values(site)[0], m = at::zeros_like(p), left = at::zeros_like(p), right = left.clone();
  Tensor left_root, right_root;
  const auto root = [](const Tensor& x) {
    const auto [u, s, vh] = at::linalg_svd(x + 0.01 * at::eye(4, x.options()));
    return at::matmul(u * s.pow(-0.25), u.t());
  };
  for (int t = 1; t <= 5; ++t) {
    give_gradients(site, t);
    const Tensor g = site.parameters[0].tensor.grad();
    left = 0.95 * left + 0.05 * at::matmul(g, g.t());
    right = 0.95 * right + 0.05 * at::matmul(g.t(), g);
    if (t % 2 == 1) left_root = root(left), right_root = root(right);
    m = 0.9 * m + 0.1 * g;
    const Tensor mean = m / (1 - std::pow(0.9, t));
    const Tensor u = at::matmul(at::matmul(left_root, mean), right_root);
    p = p - 0.1 * u * (mean.norm() / u.norm());
    optimizer->step(1.0);
    expect_close("step " + std::to_string(t), site.parameters[0].tensor, p, 1e-10);
  }
}

TEST(property, optimizer_baselines_schedule_free_mean) {
  // A linear loss has a constant gradient; x is then the mean of z.
  const OptimizerSite site = site_of();
  const auto optimizer = make("schedule_free", site, {{"lr", 0.01}});
  const std::vector<Tensor> start = values(site);
  std::vector<Tensor> sum;
  for (const Tensor& x : start) sum.push_back(at::zeros_like(x));
  for (int t = 0; t < 7; ++t) {
    give_gradients(site, 3);
    optimizer->step(1.0);
    const auto state = optimizer->state();
    for (size_t i = 0; i < sum.size(); ++i) {
      const Tensor& base = state.at("base." + site.parameters[i].name);
      EXPECT_LT((base - start[i] + 0.01 * (t + 1) * site.parameters[i].tensor.grad().sign())
                    .abs()
                    .max()
                    .item<double>(),
                1e-6);
      sum[i] += base;
    }
  }
  const std::vector<Tensor> y = values(site);
  optimizer->eval();
  for (size_t i = 0; i < sum.size(); ++i)
    EXPECT_LT((values(site)[i] - sum[i] / 7).abs().max().item<double>(), 1e-12);
  EXPECT_NE(message_of([&] { optimizer->step(1.0); }).find("schedule_free: step() in eval mode"),
            std::string::npos);
  optimizer->train();
  EXPECT_EQ(largest_gap(values(site), y), 0);
}

}  // namespace
}  // namespace formwork

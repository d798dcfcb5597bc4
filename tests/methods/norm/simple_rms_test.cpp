// The norms without a mean of specification transnormer, and why they replace a denominator.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "methods/norm/norm.h"
#include "support/mixers.h"

namespace formwork::test {
namespace {

std::shared_ptr<Norm> norm_of(const std::string& kind, int64_t width, const Table& options = {}) {
  NormSite site;
  site.width = width;
  const auto norm = Choice<Norm>(kind).set(options).make(site);
  norm->to(at::kDouble);
  return norm;
}

TEST(property, transnormer_simple_rms_jacobian) {
  const double eps = 1e-2;
  const auto norm = norm_of("simple_rms", 6, {{"eps", Value(eps)}});
  for (const double scale : {1.0, 1e-3}) {
    const Tensor x = (random_tensor({6}, 9) * scale).requires_grad_(true);
    std::vector<Tensor> rows;
    const Tensor y = norm->forward(x);
    for (int64_t i = 0; i < 6; ++i) rows.push_back(torch::autograd::grad({y[i]}, {x}, {}, true)[0]);
    const double largest = at::linalg_svdvals(at::stack(rows))[0].item<double>();
    const double root = x.detach().square().mean().sqrt().item<double>();
    EXPECT_LE(largest, (1 + 1e-12) / (root + eps));
    EXPECT_GT(largest, 0.99 / (root + eps)) << "reached across x";
  }
  const auto gated = norm_of("gated_rms", 6);
  const Tensor x = random_tensor({3, 6}, 10);
  expect_near("gated", gated->forward(x),
              x / (x.square().mean(-1, true).sqrt() + 1e-8) * at::sigmoid(x));
}

/// Why there is no denominator: weights p = s / sum s have slopes without a bound, softmax has not.
TEST(property, transnormer_slopes_of_weights) {
  Tensor s = at::tensor({1e-6, 1e-6, 1e-6 / 3}, at::kDouble).requires_grad_(true);
  const Tensor p = s / s.sum();
  const double slope = torch::autograd::grad({p[0]}, {s})[0][0].item<double>();
  const double part = p[0].item<double>(), score = s[0].item<double>();
  EXPECT_NEAR(slope, part * (1 - part) / score, 1e-4);
  EXPECT_LE(slope, 1 / (4 * score));
  EXPECT_GT(slope, 1e5);
  const Tensor soft = s.softmax(0);
  EXPECT_LE(torch::autograd::grad({soft[0]}, {s})[0][0].item<double>(), 0.25);
}

}  // namespace
}  // namespace formwork::test

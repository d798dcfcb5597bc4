// Rows through tanh and gates, fused, beside the same by plain operators in float64.
#include "kernels/gated_rms.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <vector>

#include "kernels/simd_levels.h"
#include "support/gradcheck.h"

namespace formwork::test {
namespace {

using at::Tensor;

constexpr double kEps = 1e-3;

double error_of(const Tensor& found, const Tensor& expected) {
  const double size = expected.abs().max().item<double>();
  return (found.to(at::kDouble) - expected).abs().max().item<double>() / std::max(size, 1e-12);
}

/// y and the gradients of x, scale and gate for one cotangent, by `form`, in `type`.
std::vector<Tensor> all_of(decltype(gated_rms) form, int64_t width, at::ScalarType type,
                           bool twice = false) {
  const auto leaf = [&](at::IntArrayRef shape, uint64_t seed) {
    return numbers(shape, seed).to(at::kFloat).to(type).requires_grad_(true);
  };
  const Tensor x = leaf({70, width}, 1), scale = leaf({width}, 2), gate = leaf({width}, 3);
  {
    const c10::NoGradGuard no_grad;
    x.narrow(0, 5, 1).zero_();
  }
  const Tensor y = form(x, scale, gate, kEps), g = numbers({70, width}, 4).to(type);
  std::vector<Tensor> all{y.detach()};
  for (const Tensor& slope :
       torch::autograd::grad({(y * g).sum()}, {x, scale, gate}, {}, {}, twice))
    all.push_back(slope.detach());
  return all;
}

TEST(property, transnormer_gated_rms_is_fused) {
  for (const int64_t width : {1, 7, 16, 45}) {
    const std::vector<Tensor> expected = all_of(gated_rms_reference, width, at::kDouble);
    for (const bool twice : {false, true}) {
      const std::vector<Tensor> found = all_of(gated_rms, width, at::kFloat, twice);
      for (size_t i = 0; i < expected.size(); ++i)
        EXPECT_LT(error_of(found[i], expected[i]), 3e-6) << width << " " << i << " " << twice;
    }
    const std::vector<Tensor> rough = all_of(gated_rms, width, at::kBFloat16);
    for (size_t i = 0; i < expected.size(); ++i)
      EXPECT_LT(error_of(rough[i], expected[i]), 0.03) << width << " " << i;
  }
}

TEST(property, transnormer_gated_rms_gradients) {
  const Tensor x = random_leaf({4, 6}, 1), scale = random_leaf({6}, 2), gate = random_leaf({6}, 3);
  expect_gradients("gated_rms", [&] { return gated_rms(x, scale, gate, kEps); },
                   {{"x", x}, {"scale", scale}, {"gate", gate}});
}

TEST(property, kernels_squash_rows_of_every_level) {
  const Tensor x = numbers({1003}, 5).mul_(4).to(at::kFloat);
  const Tensor wide = x.to(at::kDouble), ones = at::ones({1003});
  x[7] = NAN;
  x[8] = INFINITY;
  x[9] = -INFINITY;
  for (const cpu::SimdLevel& level : cpu::simd_levels()) {
    Tensor y = at::empty_like(x);
    level.squash->tanh(x.data_ptr<float>(), 0.5f, y.data_ptr<float>(), 1003);
    const Tensor exact = at::tanh(0.5 * wide);
    const Tensor off = ((y.to(at::kDouble) - exact) / exact).abs();
    EXPECT_LT(at::cat({off.narrow(0, 0, 7), off.narrow(0, 10, 993)}).max().item<double>(), 5e-7)
        << level.attention->name;
    EXPECT_TRUE(std::isnan(y[7].item<float>()));
    EXPECT_EQ(y[8].item<float>(), 1.0f);
    EXPECT_EQ(y[9].item<float>(), -1.0f);
    level.squash->gate(ones.data_ptr<float>(), 1.0f, ones.data_ptr<float>(), x.data_ptr<float>(),
                       y.data_ptr<float>(), 1003);
    const Tensor open = at::sigmoid(wide);
    const Tensor gap = ((y.to(at::kDouble) - open) / open).abs();
    EXPECT_LT(at::cat({gap.narrow(0, 0, 7), gap.narrow(0, 10, 993)}).max().item<double>(), 1e-6)
        << level.attention->name;
    EXPECT_TRUE(std::isnan(y[7].item<float>()));
    EXPECT_EQ(y[8].item<float>(), 1.0f);
    EXPECT_EQ(y[9].item<float>(), 0.0f);
  }
}

}  // namespace
}  // namespace formwork::test

// Pointwise functions with what is fused to them, beside the same by plain operators in float64.
#include "kernels/activation.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "kernels/linear_map.h"
#include "kernels/simd_levels.h"
#include "support/gradcheck.h"

namespace formwork::test {
namespace {

using at::Tensor;

double largest_error(const Tensor& found, const Tensor& expected) {
  if (expected.numel() == 0) return found.numel() == 0 ? 0.0 : 1.0;
  const double size = expected.abs().max().item<double>();
  return (found.to(at::kDouble) - expected).abs().max().item<double>() / std::max(size, 1.0);
}

struct Given {
  bool bias, factor, residual;
};

/// y and the gradients of z, bias, factor and residual, those that are given, in `type`; rows are
/// not contiguous.
std::vector<Tensor> activated_with(const Given& given, Activation f, at::IntArrayRef shape,
                                   at::ScalarType type, bool reference, bool twice = false) {
  std::vector<Tensor> leaves;
  const auto leaf = [&](at::IntArrayRef sizes, uint64_t seed) {
    leaves.push_back(numbers(sizes, seed).mul(2).to(at::kBFloat16).to(type).requires_grad_(true));
    return leaves.back();
  };
  const Tensor z = leaf(shape, 1).transpose(0, 1);
  ActivationExtras extras;
  if (given.bias) extras.bias = leaf(shape.slice(2), 2);
  if (given.factor) extras.factor = leaf(shape, 3).transpose(0, 1);
  if (given.residual) extras.residual = leaf(shape, 4).transpose(0, 1);
  const Tensor y = reference ? activate_reference(z, f, extras) : activate(z, f, extras);
  const Tensor g = numbers(shape, 5).to(at::kBFloat16).to(type).transpose(0, 1);
  std::vector<Tensor> all{y.detach()};
  for (const Tensor& slope : torch::autograd::grad({(y * g).sum()}, leaves, {}, {}, twice))
    all.push_back(slope.detach());
  return all;
}

TEST(property, kernels_activation_is_exact) {
  for (const std::string& name : activation_names())
    for (const Given& given : {Given{false, false, false}, Given{true, false, true},
                               Given{false, true, false}, Given{true, true, true}})
      for (const int64_t width : {1, 7, 33, 200})
        for (const int64_t rows : {1, 45}) {
          const int64_t shape[] = {3, rows, width};
          const Activation f = activation_named(name);
          const auto expected = activated_with(given, f, shape, at::kDouble, true);
          const auto compare = [&](at::ScalarType type, double most, bool twice) {
            const auto found = activated_with(given, f, shape, type, false, twice);
            ASSERT_EQ(found.size(), expected.size());
            for (size_t i = 0; i < found.size(); ++i)
              EXPECT_LT(largest_error(found[i], expected[i]), most)
                  << name << " width " << width << " rows " << rows << " tensor " << i << " "
                  << given.bias << given.factor << given.residual << " " << type;
          };
          compare(at::kFloat, 2e-6, false);
          compare(at::kFloat, 2e-6, true);
          compare(at::kBFloat16, 1e-2, false);
        }
}

TEST(property, kernels_activation_of_nothing) {
  const Tensor z = at::empty({0, 5}).requires_grad_(true);
  const Tensor y = activate(z, Activation::gelu, {at::ones({5}), {}, {}});
  EXPECT_EQ(y.sizes(), z.sizes());
  y.sum().backward();
  EXPECT_EQ(z.grad().sizes(), z.sizes());
}

TEST(property, kernels_activation_keeps_what_is_no_number) {
  const float odd[] = {NAN, INFINITY, -INFINITY, -100.0f, 100.0f, 0.0f, -0.0f, 1e-30f};
  const Tensor z = at::tensor(at::ArrayRef<float>(odd, 8));
  for (const cpu::SimdLevel& level : cpu::simd_levels())
    for (const char* name : {"gelu", "gelu_tanh", "relu", "relu2", "silu", "sigmoid"}) {
      Tensor y = at::empty_like(z);
      level.activation->forward(activation_named(name), z.data_ptr<float>(), nullptr, nullptr,
                                nullptr, y.data_ptr<float>(), 8);
      EXPECT_TRUE(std::isnan(y[0].item<float>())) << name << " " << level.attention->name;
      EXPECT_TRUE(at::isfinite(y.slice(0, 3)).all().item<bool>()) << name;
    }
}

TEST(property, kernels_activation_of_every_level) {
  const Tensor z = numbers({2011}, 7).mul_(5).to(at::kFloat);
  const Tensor wide = z.to(at::kDouble).requires_grad_(true);
  for (const cpu::SimdLevel& level : cpu::simd_levels())
    for (const std::string& name : activation_names()) {
      const Activation f = activation_named(name);
      const Tensor expected = activate_reference(wide, f);
      const Tensor slope = torch::autograd::grad({expected.sum()}, {wide})[0];
      Tensor y = at::empty_like(z), dz = at::empty_like(z);
      const Tensor ones = at::ones_like(z);
      level.activation->forward(f, z.data_ptr<float>(), nullptr, nullptr, nullptr,
                                y.data_ptr<float>(), z.numel());
      level.activation->backward(f, ones.data_ptr<float>(), z.data_ptr<float>(), nullptr, nullptr,
                                 dz.data_ptr<float>(), nullptr, nullptr, z.numel());
      const auto off = [](const Tensor& found, const Tensor& exact, double least) {
        const Tensor gap = (found.to(at::kDouble) - exact).abs() / exact.abs().clamp_min(least);
        return gap.max().item<double>();
      };
      EXPECT_LT(off(y, expected.detach(), 1e-3), 1e-6) << name << " " << level.attention->name;
      EXPECT_LT(off(dz, slope, 0.1), 2e-6) << name << " " << level.attention->name;
    }
}

TEST(property, kernels_activation_does_not_depend_on_threads) {
  const int64_t shape[] = {3, 700, 65};
  const int threads = at::get_num_threads();
  std::vector<std::vector<Tensor>> runs;
  for (const int count : {1, 2, 3}) {
    at::set_num_threads(count);
    runs.push_back(activated_with({true, true, true}, Activation::gelu, shape, at::kFloat, false));
  }
  at::set_num_threads(threads);
  for (size_t i = 0; i < runs[0].size(); ++i)
    for (size_t r = 1; r < runs.size(); ++r) EXPECT_TRUE(runs[0][i].equal(runs[r][i])) << i;
}

TEST(property, kernels_linear_map_in_bfloat16) {
  const auto low = [](at::IntArrayRef shape, uint64_t seed) {
    return numbers(shape, seed).to(at::kBFloat16);
  };
  const Tensor x = low({3, 50, 70}, 1), weight = low({33, 70}, 2), bias = low({33}, 3),
               g = low({3, 50, 33}, 4);
  const auto wide = [](const Tensor& tensor) {
    return tensor.to(at::kDouble).requires_grad_(true);
  };
  const std::vector<Tensor> exact_leaves{wide(x), wide(weight), wide(bias)};
  const Tensor exact = at::linear(exact_leaves[0], exact_leaves[1], exact_leaves[2]);
  const auto slopes = torch::autograd::grad({(exact * g.to(at::kDouble)).sum()}, exact_leaves);
  const auto compare = [&](const std::vector<Tensor>& leaves) {
    const Tensor y = linear_map(leaves[0], leaves[1], leaves[2]);
    EXPECT_EQ(y.scalar_type(), at::kBFloat16);
    EXPECT_LT(largest_error(y.detach(), exact.detach()), 4e-3);
    const auto found = torch::autograd::grad({(y * g).sum()}, leaves);
    for (size_t i = 0; i < found.size(); ++i) {
      EXPECT_EQ(found[i].scalar_type(), leaves[i].scalar_type());
      EXPECT_LT(largest_error(found[i], slopes[i]), 4e-3) << i;
    }
  };
  const auto leaf = [](const Tensor& tensor, at::ScalarType type) {
    return tensor.to(type).detach().requires_grad_(true);
  };
  compare({leaf(x, at::kBFloat16), leaf(weight, at::kBFloat16), leaf(bias, at::kBFloat16)});
  at::autocast::set_autocast_enabled(at::kCPU, true);
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  compare({leaf(x, at::kFloat), leaf(weight, at::kFloat), leaf(bias, at::kFloat)});
  at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(at::kCPU, false);
}

TEST(property, kernels_linear_map_with_epilogue) {
  const auto leaf = [](at::IntArrayRef shape, uint64_t seed) {
    return numbers(shape, seed).requires_grad_(true);
  };
  const Tensor x = leaf({5, 9, 23}, 1), weight = leaf({17, 23}, 2), bias = leaf({17}, 3),
               residual = leaf({5, 9, 17}, 4);
  const auto plain = [](const Tensor& a, const Tensor& w, const Tensor& b, const Tensor& r) {
    return at::gelu(at::linear(a, w, b)) + r;
  };
  const Tensor expected = plain(x, weight, bias, residual);
  const auto slopes = torch::autograd::grad({expected.square().sum()}, {x, weight, bias, residual});
  std::vector<Tensor> leaves;
  for (const Tensor& each : {x, weight, bias, residual})
    leaves.push_back(each.detach().to(at::kFloat).requires_grad_(true));
  const Tensor y = linear_map(leaves[0], leaves[1], {leaves[2], Activation::gelu, leaves[3]});
  EXPECT_LT(largest_error(y.detach(), expected.detach()), 2e-6);
  const auto found = torch::autograd::grad({y.square().sum()}, leaves);
  for (size_t i = 0; i < found.size(); ++i)
    EXPECT_LT(largest_error(found[i], slopes[i]), 2e-6) << i;
  const c10::NoGradGuard no_grad;
  EXPECT_TRUE(y.equal(linear_map(leaves[0], leaves[1], {leaves[2], Activation::gelu, leaves[3]})));
}

}  // namespace
}  // namespace formwork::test

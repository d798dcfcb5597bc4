// Linear maps with weights in oneDNN's order, beside the plain product in float64.
#include "kernels/laid_out_linear.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <vector>

#include "support/gradcheck.h"

namespace formwork::test {
namespace {

using at::Tensor;

Tensor laid_out_numbers(at::IntArrayRef shape, uint64_t seed) {
  return numbers(shape, seed).to(at::kFloat);
}

TEST(property, kernels_laid_out_linear_products) {
  const c10::NoGradGuard no_grad;
  const Tensor probe = lay_out_weight(laid_out_numbers({4, 4}, 1));
  if (!probe.defined()) GTEST_SKIP() << "no oneDNN here, or FORMWORK_MATMUL=mkl";
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{1, 1}, {3, 5}, {17, 33}, {257, 129}})
    for (const std::vector<int64_t>& leading : {std::vector<int64_t>{16}, {3, 7}, {2, 0}})
      for (const bool with_bias : {false, true}) {
        const Tensor w = laid_out_numbers({out, in}, 1);
        std::vector<int64_t> shape = leading;
        shape.push_back(in);
        // Strided, as a part of something larger is.
        shape.back() *= 2;
        const Tensor x = laid_out_numbers(shape, 2).narrow(-1, in, in);
        const Tensor bias = with_bias ? laid_out_numbers({out}, 3) : Tensor();
        const Tensor y = laid_out_linear(x, lay_out_weight(w), bias);
        const Tensor wide = at::matmul(x.to(at::kDouble), w.to(at::kDouble).t());
        const Tensor exact = with_bias ? wide + bias.to(at::kDouble) : wide;
        ASSERT_EQ(y.sizes(), exact.sizes());
        const Tensor size = at::matmul(x.to(at::kDouble).abs(), w.to(at::kDouble).abs().t()) + 1.0;
        if (y.numel() == 0) continue;
        EXPECT_LT(((y - exact).abs() / size).max().item<double>(), 2e-6) << out << "x" << in;
      }
}

TEST(property, kernels_laid_out_linear_is_left_where_it_cannot_serve) {
  EXPECT_FALSE(lay_out_weight(at::ones({3, 3}, at::kDouble)).defined());
  EXPECT_FALSE(lay_out_weight(at::ones({0, 3})).defined());
  const Tensor laid_out = lay_out_weight(at::ones({4, 4}));
  if (!laid_out.defined()) GTEST_SKIP() << "no oneDNN here, or FORMWORK_MATMUL=mkl";
  EXPECT_FALSE(suits_layout(at::ones({32, 4}), laid_out)) << "somebody wants gradients";
  const c10::NoGradGuard no_grad;
  EXPECT_TRUE(suits_layout(at::ones({2, 16, 4}), laid_out));
  EXPECT_FALSE(suits_layout(at::ones({2, 4}), laid_out)) << "few rows";
  EXPECT_FALSE(suits_layout(at::ones({32, 4}, at::kBFloat16), laid_out));
  EXPECT_FALSE(suits_layout(at::ones({32, 4}), Tensor()));
}

}  // namespace
}  // namespace formwork::test

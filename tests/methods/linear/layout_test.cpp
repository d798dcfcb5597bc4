#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "methods/linear/linear.h"
#include "support/gradcheck.h"

namespace formwork::test {
namespace {

using at::Tensor;

TEST(property, linear_dense_laid_out_keeps_gradients_and_results) {
  LinearSite site;
  site.in = 24;
  site.out = 40;
  site.bias = true;
  const std::shared_ptr<Linear> map = Choice<Linear>("dense").make(site);
  const Tensor x = numbers({2, 16, 24}, 4).to(at::kFloat);
  const Tensor before = map->forward(x);
  map->lay_out();
  EXPECT_TRUE(at::equal(map->forward(x), before)) << "with gradients the plain weight is used";
  map->forward(x).sum().backward();
  EXPECT_TRUE(map->weight().grad().defined());
  const c10::NoGradGuard no_grad;
  EXPECT_TRUE(at::allclose(map->forward(x), before, 1e-4, 1e-6));
  EXPECT_TRUE(at::allclose(map->activated(x, Activation::gelu), at::gelu(before), 1e-4, 1e-6));
  EXPECT_TRUE(at::equal(map->weight(), map->parameters().front().tensor));
}

}  // namespace
}  // namespace formwork::test

// Reflected and rotated queries and keys: specification transnormer.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "methods/position/position.h"
#include "support/mixers.h"
#include "support/refusal.h"

namespace formwork::test {
namespace {

std::shared_ptr<Position> lrpe_of(int64_t head_width, const Table& options = {}) {
  PositionSite where;
  where.width = head_width;
  where.head_width = head_width;
  where.random = RandomStream(5);
  return Choice<Position>("lrpe").set(options).make(where);
}

TEST(property, transnormer_lrpe) {
  for (const char* mirror : {"fixed", "learned", "none"}) {
    for (const int64_t width : {8, 7, 2}) {
      const auto lrpe = lrpe_of(width, {{"householder", Value(mirror)}});
      lrpe->to(at::kDouble);
      const Tensor q = random_tensor({1, 2, 1, width}, 1).expand({1, 2, 9, width});
      const Tensor k = random_tensor({1, 2, 1, width}, 2).expand({1, 2, 9, width});
      const Tensor at_place = at::arange(9);
      const Tensor turned = lrpe->rotate(q, at_place);
      const double slack = mirror[0] == 'l' ? 1e-5 : 1e-6;  // v is kept in float32
      const auto length = [](const Tensor& x) {
        return at::linalg_vector_norm(x, 2, at::IntArrayRef{-1});
      };
      expect_near("length", length(turned), length(q), slack);
      const Tensor near = at::matmul(turned, lrpe->rotate(k, at_place).transpose(2, 3));
      const Tensor far = at::matmul(lrpe->rotate(q, at_place + 1000),
                                    lrpe->rotate(k, at_place + 1000).transpose(2, 3));
      expect_near("difference of positions", near, far, 1e-9);
      EXPECT_FALSE(at::allclose(near.select(2, 0), near.select(2, 4)));
      expect_near("rows", lrpe->rotate(q, at_place.expand({1, 9})), turned);
      const c10::NoGradGuard no_grad;
      expect_near("without a gradient", lrpe->rotate(q, at_place), turned, 1e-12);
    }
  }
  EXPECT_EQ(lrpe_of(8)->parameters().size(), 1);
  EXPECT_EQ(lrpe_of(8, {{"theta_learned", Value(false)}})->parameters().size(), 0);
  EXPECT_EQ(lrpe_of(8, {{"householder", Value("learned")}})->parameters().size(), 2);
  EXPECT_TRUE(at::equal(lrpe_of(4)->named_tensors().at("theta").detach().view({-1}),
                        at::tensor({1.0f, 0.01f})));
  expect_error([] { lrpe_of(1); }, Fault::request, {"lrpe", "1"});
}

}  // namespace
}  // namespace formwork::test

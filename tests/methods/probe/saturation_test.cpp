// The probe that multiplies all parameters.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "methods/probe/probe.h"

namespace formwork::test {
namespace {

/// Two "layers": x W, which only grows, and x W + 1, whose direction changes when W grows.
class TwoLayers final : public Subject {
 public:
  explicit TwoLayers(const Tensor& weight) : weight_(weight) {}
  Tensor run(const Run& how) override {
    const Tensor first = at::matmul(input(), weight_);
    how.watcher->see("layers.0.attn.stream", first);
    how.watcher->see("layers.1.attn.stream", first + 1.0);
    return first;
  }
  Tensor input() const override {
    return at::tensor({1.0, 2.0, -3.0, 0.5}, at::kDouble).view({1, 2, 2});
  }
  int64_t vocabulary() const override { return 0; }
  Tensor valid() const override { return at::tensor({1, 0}).to(at::kBool).view({1, 2}); }
  int64_t added() const override { return 0; }
  bool causal() const override { return false; }
  bool per_token() const override { return true; }

 private:
  Tensor weight_;
};

TEST(property, saturated_attention_probe) {
  const Tensor weight = at::eye(2, at::kDouble).requires_grad_(true), before = weight.clone();
  ProbeSite site;
  site.parameters = {{"w", weight, Role::other}};
  const auto probe = parse_probe("saturation", "probe").make(site);
  TwoLayers subject(weight);
  probe->experiment(subject);
  const Findings found = probe->findings();
  const auto& values = found.series.at(0).values;
  ASSERT_EQ(values.size(), 2);
  EXPECT_NEAR(values[0], 1.0, 1e-9);
  // (2, 3) and (1001, 2001): the second token is no token.
  EXPECT_NEAR(values[1], 8005.0 / std::sqrt(13.0 * (1001.0 * 1001.0 + 2001.0 * 2001.0)), 1e-9);
  EXPECT_TRUE(weight.equal(before));
}

}  // namespace
}  // namespace formwork::test

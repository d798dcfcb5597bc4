// The figures that claims expect without training: specifications saturated_attention, sympformer.
#include "lab/demonstrations.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <set>

#include "lab/formal_languages.h"
#include "support/refusal.h"

namespace formwork::test {
namespace {

double figure(const std::string& name) {
  return demonstration_called(name, "test").compute();
}

TEST(property, saturated_attention_recognises_languages) {
  EXPECT_EQ(figure("majority_errors"), 0.0);
  EXPECT_EQ(figure("majority_errors_of_hard_attention"), 2046.0 - 1297.0);
  EXPECT_EQ(figure("threshold_errors"), 0.0);
  EXPECT_EQ(figure("parity_errors"), 0.0);
  EXPECT_EQ(figure("bracket_errors"), 0.0);
}

TEST(property, saturated_attention_sums_integers_exactly) {
  for (int64_t n = 1; n <= 10; ++n) {
    const Tensor bits = all_words(n);
    const Tensor mean = mean_by_equal_scores(2.0 * bits - 1.0, false).select(1, 0);
    EXPECT_TRUE((mean > 0.0).equal(2.0 * bits.sum(1) > static_cast<double>(n))) << n;
  }
}

TEST(property, saturated_attention_gates_are_and_and_or) {
  const Tensor bits = all_words(5);
  EXPECT_TRUE(threshold_gate(bits, 5).equal(bits.prod(1)));
  EXPECT_TRUE(threshold_gate(bits, 1).equal(bits.amax(1)));
}

TEST(property, saturated_attention_keeps_the_limit_law) {
  EXPECT_LE(figure("limit_law_excess"), 1e-14);
}

TEST(property, sympformer_particles) {
  EXPECT_LT(figure("linear_kernel_nonlinearity"), 1e-12);
  EXPECT_GT(figure("softmax_kernel_nonlinearity"), 1e-3);
  EXPECT_NEAR(figure("accelerated_decay"), 4.0, 0.8);
  EXPECT_NEAR(figure("first_order_decay"), 2.0, 0.3);
}

TEST(unit, demonstrations_have_names_of_their_own) {
  std::set<std::string> names;
  for (const Demonstration& one : demonstrations()) {
    EXPECT_TRUE(names.insert(one.name).second) << one.name;
    EXPECT_FALSE(one.figure.empty()) << one.name;
  }
  expect_error([] { demonstration_called("parity_eror", "claim.toml"); }, Fault::request,
               {"claim.toml", "parity_errors"});
}

}  // namespace
}  // namespace formwork::test

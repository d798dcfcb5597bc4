#include "lab/judge.h"

#include <gtest/gtest.h>

namespace formwork {
namespace {

SeedOutcome done(double value) {
  return {RunState::done, value};
}
const SeedOutcome kDiverged{RunState::diverged, std::nullopt};
const SeedOutcome kFailed{RunState::failed, std::nullopt};
const SeedOutcome kMissing{};

TEST(property, lab_judge_order) {
  const std::vector<SeedOutcome> base = {done(2.0), done(2.1), done(1.9)};
  const std::vector<SeedOutcome> mixed = {done(1.8), done(2.2), done(1.7)};
  EXPECT_EQ(judge_order(mixed, base, true, 2).verdict, Verdict::holds);
  EXPECT_EQ(judge_order(mixed, base, true, 3).verdict, Verdict::does_not_hold);
  EXPECT_EQ(judge_order(mixed, base, false, 1).verdict, Verdict::holds);
  EXPECT_EQ(judge_order(mixed, base, true, 2, 0.3).verdict, Verdict::does_not_hold);
  EXPECT_NE(judge_order(mixed, base, true, 2).numbers.find("lower in 2 of 3 seeds"),
            std::string::npos);
}

TEST(property, lab_judge_order_of_runs_that_did_not_end_well) {
  const std::vector<SeedOutcome> base = {done(2.0), kDiverged, kDiverged};
  EXPECT_EQ(judge_order({done(3.0), done(3.0), done(3.0)}, base, true, 2).verdict, Verdict::holds);
  EXPECT_EQ(judge_order({done(1.0), kDiverged, kDiverged}, base, true, 2).verdict,
            Verdict::does_not_hold);
  EXPECT_EQ(judge_order({done(1.0), kFailed, kMissing}, base, true, 2).verdict,
            Verdict::could_not_be_told);
  EXPECT_EQ(judge_order({kMissing}, {done(1.0)}, true, 1).verdict, Verdict::could_not_be_told);
}

TEST(property, lab_judge_equal) {
  const std::vector<SeedOutcome> base = {done(2.0), done(2.1), done(1.9)};
  const std::vector<SeedOutcome> near = {done(2.001), done(2.1), done(1.901)};
  EXPECT_EQ(judge_equal(near, base, 0.01, false).verdict, Verdict::holds);
  EXPECT_EQ(judge_equal(near, base, 0.005, true).verdict, Verdict::holds);  // 0.01 of 2
  EXPECT_EQ(judge_equal(near, base, 0.001, false).verdict, Verdict::could_not_be_told);
  const std::vector<SeedOutcome> far = {done(2.5), done(2.61), done(2.4)};
  EXPECT_EQ(judge_equal(far, base, 0.1, false).verdict, Verdict::does_not_hold);
  EXPECT_EQ(judge_equal({done(2.0), kDiverged, done(1.9)}, base, 0.1, false).verdict,
            Verdict::does_not_hold);
  EXPECT_EQ(judge_equal({done(2.0), kFailed, kMissing}, base, 0.1, false).verdict,
            Verdict::could_not_be_told);
}

TEST(property, lab_judge_divergence) {
  EXPECT_EQ(judge_divergence({kDiverged, kDiverged, done(1)}, true, 2).verdict, Verdict::holds);
  EXPECT_EQ(judge_divergence({kDiverged, done(1), done(1)}, true, 2).verdict,
            Verdict::does_not_hold);
  EXPECT_EQ(judge_divergence({kDiverged, kFailed, done(1)}, true, 2).verdict,
            Verdict::could_not_be_told);
  EXPECT_EQ(judge_divergence({done(1), done(1)}, false, 2).verdict, Verdict::holds);
}

TEST(property, lab_judge_faster) {
  EXPECT_EQ(judge_faster({8, 16}, {{0.5, 0.51, 0.49}, {0.8, 0.81, 0.8}}).verdict, Verdict::holds);
  EXPECT_EQ(judge_faster({8, 16}, {{0.5, 0.51, 0.49}, {1.2, 1.21, 1.2}}).verdict,
            Verdict::does_not_hold);
  EXPECT_EQ(judge_faster({8}, {{0.9, 1.2, 0.8}}).verdict, Verdict::could_not_be_told);
  EXPECT_EQ(judge_faster({8}, {{0.5}}).verdict, Verdict::could_not_be_told);
  EXPECT_NE(judge_faster({8}, {{0.5, 0.5}}).numbers.find("8: 0.5"), std::string::npos);
}

TEST(property, lab_judge_exponent) {
  EXPECT_EQ(judge_exponent({1.01, 1.0, 0.99}, 1.1, true).verdict, Verdict::holds);
  EXPECT_EQ(judge_exponent({1.01, 1.0, 0.99}, 1.0, true).verdict, Verdict::could_not_be_told);
  EXPECT_EQ(judge_exponent({1.91, 1.9, 1.89}, 1.1, true).verdict, Verdict::does_not_hold);
  EXPECT_EQ(judge_exponent({1.91, 1.9, 1.89}, 1.3, false).verdict, Verdict::holds);
  EXPECT_EQ(judge_exponent({1.0}, 1.3, true).verdict, Verdict::could_not_be_told);
}

TEST(property, lab_judge_bound) {
  EXPECT_EQ(judge_bound(2.0, 2.0, true).verdict, Verdict::holds);
  EXPECT_EQ(judge_bound(2.1, 2.0, true).verdict, Verdict::does_not_hold);
  EXPECT_EQ(judge_bound(2.0, 2.0, false).verdict, Verdict::holds);
  EXPECT_EQ(judge_bound(1.9, 2.0, false).verdict, Verdict::does_not_hold);
  EXPECT_EQ(judge_bound(NAN, 2.0, true).verdict, Verdict::could_not_be_told);
}

TEST(property, lab_verdict_of_several) {
  const Judgement yes{Verdict::holds, ""}, no{Verdict::does_not_hold, ""},
      unknown{Verdict::could_not_be_told, ""};
  EXPECT_EQ(verdict_of({yes, yes}), Verdict::holds);
  EXPECT_EQ(verdict_of({yes, unknown}), Verdict::could_not_be_told);
  EXPECT_EQ(verdict_of({unknown, no}), Verdict::does_not_hold);
  EXPECT_EQ(verdict_of({}), Verdict::could_not_be_told);
}

}  // namespace
}  // namespace formwork

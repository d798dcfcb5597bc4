// Against SciPy 1.17 (stats.t, stats.nct, special.betainc, stats.ttest_rel).
#include "lab/statistics.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"

namespace formwork {
namespace {

TEST(property, lab_incomplete_beta) {
  struct Case {
    double a, b, x, value;
  };
  for (const Case& c : {Case{0.5, 0.5, 0.3, 0.36901011956554536},
                        {2, 3, 0.4, 0.5247999999999999},
                        {10, 0.5, 0.99, 0.6579281751567845},
                        {0.5, 40, 0.001, 0.22208013236431182},
                        {100, 80, 0.6, 0.8855740440737762}})
    EXPECT_NEAR(incomplete_beta(c.a, c.b, c.x), c.value, 1e-13) << c.a << " " << c.b << " " << c.x;
  EXPECT_EQ(incomplete_beta(2, 3, 0), 0.0);
  EXPECT_EQ(incomplete_beta(2, 3, 1), 1.0);
  EXPECT_THROW(incomplete_beta(0, 3, 0.5), Error);
}

TEST(property, lab_student_t) {
  struct Case {
    double first, freedom, value;
  };
  for (const Case& c : {Case{-2, 1, 0.14758361765043326},
                        {0.7, 2, 0.7218034876835673},
                        {3.5, 4, 0.9875519182698886},
                        {-8, 9, 1.1067408404700078e-05},
                        {1.2, 29.5, 0.8801559769328497},
                        {-40, 2, 0.0003122073360923703}})
    EXPECT_NEAR(student_t_below(c.first, c.freedom) / c.value, 1.0, 1e-12) << c.first;
  for (const Case& c : {Case{0.975, 2, 4.302652729749462},
                        {0.8, 2, 1.0606601717798214},
                        {0.025, 4, -2.7764451051977943},
                        {0.999, 9, 4.296805662729918},
                        {0.975, 1, 12.706204736174694}})
    EXPECT_NEAR(student_t_quantile(c.first, c.freedom) / c.value, 1.0, 1e-9) << c.first;
}

TEST(property, lab_noncentral_t) {
  struct Case {
    double t, freedom, shift, value;
  };
  for (const Case& c : {Case{4.302652729911275, 2, 3.0, 0.6126106498198225},
                        {2.0, 4, 1.5, 0.6189289251396548},
                        {-1.0, 3, 0.5, 0.09212120981435942},
                        {12.706, 1, 10.0, 0.4326860645220164},
                        {2.26, 9, 3.2, 0.18729591339473484},
                        {1.7, 29, 2.5, 0.2132275401142782}})
    EXPECT_NEAR(noncentral_t_below(c.t, c.freedom, c.shift), c.value, 1e-7) << c.t;
}

TEST(property, lab_paired_test) {
  const PairedTest three = paired_test({0.41, 0.44, 0.395}, {0.39, 0.41, 0.39});
  EXPECT_EQ(three.pairs, 3);
  EXPECT_NEAR(*three.difference, 0.055 / 3, 1e-12);
  EXPECT_NEAR(*three.p, 0.12764325571004165, 1e-9);
  EXPECT_NEAR(*three.smallest_detectable, 0.041071647316242015, 1e-6);
  const PairedTest five = paired_test({1.2, 1.31, 1.18, 1.25, 1.22}, {1.3, 1.29, 1.33, 1.28, 1.36});
  EXPECT_NEAR(*five.p, 0.07077447037813922, 1e-9);
  EXPECT_NEAR(*five.smallest_detectable, 0.12302747170911776, 1e-6);
}

TEST(property, lab_paired_test_of_too_little) {
  EXPECT_EQ(paired_test({}, {}).pairs, 0);
  EXPECT_FALSE(paired_test({}, {}).difference);
  const PairedTest one = paired_test({2.0}, {1.5});
  EXPECT_EQ(*one.difference, 0.5);
  EXPECT_FALSE(one.p);
  EXPECT_FALSE(one.smallest_detectable);
  const PairedTest same = paired_test({2.0, 3.0}, {2.0, 3.0});
  EXPECT_EQ(*same.p, 1.0);
  EXPECT_EQ(*same.smallest_detectable, 0.0);
  EXPECT_EQ(*paired_test({2.5, 3.5}, {2.0, 3.0}).p, 0.0);
  EXPECT_THROW(paired_test({1.0}, {}), Error);
}

TEST(property, lab_summaries_of_values) {
  EXPECT_EQ(mean_of({}), 0.0);
  EXPECT_EQ(mean_of({1, 2, 6}), 3.0);
  EXPECT_EQ(median_of({9, 1, 2}), 2.0);
  EXPECT_EQ(median_of({4, 1, 2, 9}), 3.0);
  EXPECT_FALSE(deviation_of({1.0}));
  EXPECT_NEAR(*deviation_of({1, 2, 6}), std::sqrt(7.0), 1e-12);
  EXPECT_EQ(*deviation_of({0.352, 0.352, 0.352}), 0.0);
  const Line line = fit_line({1, 2, 3}, {5, 7, 9});
  EXPECT_NEAR(line.slope, 2.0, 1e-12);
  EXPECT_NEAR(line.intercept, 3.0, 1e-12);
  EXPECT_THROW(fit_line({1, 1}, {2, 3}), Error);
}

}  // namespace
}  // namespace formwork

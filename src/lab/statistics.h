// The statistics a comparison over few seeds needs: Student's t, the paired test and its power.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace formwork {

/// A difference counts as shown when its p is below this.
constexpr double kSignificance = 0.05;

double mean_of(const std::vector<double>& values);
/// The middle value, or the mean of the two middle ones; 0 for none.
double median_of(std::vector<double> values);
/// The sample standard deviation (n - 1); nothing for fewer than two values.
std::optional<double> deviation_of(const std::vector<double>& values);

/// The regularised incomplete beta function I_x(a, b), 0 <= x <= 1, a and b above 0. By the
/// continued fraction of Lentz (Press et al., Numerical Recipes, section 6.4), to about 1e-14.
double incomplete_beta(double a, double b, double x);
/// P(T <= t) of Student's t with `freedom` > 0 degrees of freedom.
double student_t_below(double t, double freedom);
/// The t that P(T <= t) = p belongs to, 0 < p < 1.
double student_t_quantile(double p, double freedom);
/// P(T <= t) of the noncentral t: T = (Z + shift) / sqrt(chi² / freedom). By quadrature, to 1e-9.
double noncentral_t_below(double t, double freedom, double shift);

/// The paired t-test of values that belong together, here one pair a seed.
struct PairedTest {
  int64_t pairs = 0;
  std::optional<double> difference;  // mean of variant - baseline
  std::optional<double> p;           // two-sided; nothing for fewer than two pairs
  /// The true mean difference that as many pairs, spreading as these do, would have shown to be
  /// significant (p < 0.05) four times in five.
  std::optional<double> smallest_detectable;
};
PairedTest paired_test(const std::vector<double>& variant, const std::vector<double>& baseline);

/// The slope and intercept of the least-squares line through (x, y); at least two different x.
struct Line {
  double slope = 0.0, intercept = 0.0;
};
Line fit_line(const std::vector<double>& x, const std::vector<double>& y);

}  // namespace formwork

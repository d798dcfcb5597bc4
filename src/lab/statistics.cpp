#include "lab/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"

namespace formwork {
namespace {

constexpr double kPower = 0.8;

/// The continued fraction of I_x(a, b); converges fast for x < (a + 1) / (a + b + 2).
double beta_fraction(double a, double b, double x) {
  constexpr double kTiny = 1e-300;
  const auto away_from_zero = [](double v) { return std::abs(v) < kTiny ? kTiny : v; };
  double c = 1.0;
  double d = 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0));
  double result = d;
  for (int m = 1; m <= 1000; ++m) {
    const double even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m));
    d = 1.0 / away_from_zero(1.0 + even * d);
    c = away_from_zero(1.0 + even / c);
    result *= d * c;
    const double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0));
    d = 1.0 / away_from_zero(1.0 + odd * d);
    c = away_from_zero(1.0 + odd / c);
    result *= d * c;
    if (std::abs(d * c - 1.0) < 1e-15) break;
  }
  return result;
}

double normal_below(double z) {
  return 0.5 * std::erfc(-z / std::sqrt(2.0));
}

/// The density of chi with `freedom` degrees of freedom, divided by sqrt(freedom).
double scaled_chi_density(double s, double freedom) {
  if (s <= 0.0) return freedom == 1.0 ? std::sqrt(2.0 / M_PI) : 0.0;
  const double log_density = std::log(2.0) + 0.5 * freedom * std::log(0.5 * freedom) -
                             std::lgamma(0.5 * freedom) + (freedom - 1.0) * std::log(s) -
                             0.5 * freedom * s * s;
  return std::exp(log_density);
}

/// Where an increasing function crosses `goal`, between low and high.
template <class Function>
double crossing(double goal, double low, double high, const Function& function) {
  for (int i = 0; i < 200 && high - low > 1e-14 * std::max(1.0, std::abs(low)); ++i) {
    const double middle = 0.5 * (low + high);
    (function(middle) < goal ? low : high) = middle;
  }
  return 0.5 * (low + high);
}

/// The shift of a noncentral t whose two-sided test succeeds with probability kPower.
double detectable_shift(double freedom) {
  const double limit = student_t_quantile(1.0 - kSignificance / 2, freedom);
  const auto power = [&](double shift) {
    return 1.0 - noncentral_t_below(limit, freedom, shift) +
           noncentral_t_below(-limit, freedom, shift);
  };
  double high = 4.0;
  while (power(high) < kPower) high *= 2.0;
  return crossing(kPower, 0.0, high, power);
}

}  // namespace

double mean_of(const std::vector<double>& values) {
  if (values.empty()) return 0.0;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double median_of(std::vector<double> values) {
  if (values.empty()) return 0.0;
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return 0.5 * (values[n / 2] + values[(n - 1) / 2]);
}

std::optional<double> deviation_of(const std::vector<double>& values) {
  if (values.size() < 2) return std::nullopt;
  // Their mean may be another number by rounding.
  if (std::equal(values.begin() + 1, values.end(), values.begin())) return 0.0;
  const double mean = mean_of(values);
  double sum = 0.0;
  for (const double value : values) sum += (value - mean) * (value - mean);
  return std::sqrt(sum / static_cast<double>(values.size() - 1));
}

double incomplete_beta(double a, double b, double x) {
  check(a > 0.0 && b > 0.0 && x >= 0.0 && x <= 1.0, "incomplete beta", "a = ", a, ", b = ", b,
        ", x = ", x, "; a and b above 0 and x from 0 to 1 were expected");
  if (x == 0.0 || x == 1.0) return x;
  const double front = std::exp(std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) +
                                a * std::log(x) + b * std::log1p(-x));
  if (x < (a + 1.0) / (a + b + 2.0)) return front * beta_fraction(a, b, x) / a;
  return 1.0 - front * beta_fraction(b, a, 1.0 - x) / b;
}

double student_t_below(double t, double freedom) {
  // Both tails from the small one, so that no digits are lost far out.
  const double tail = 0.5 * incomplete_beta(0.5 * freedom, 0.5, freedom / (freedom + t * t));
  return t > 0.0 ? 1.0 - tail : tail;
}

double student_t_quantile(double p, double freedom) {
  check(p > 0.0 && p < 1.0, "quantile", "of ", p, "; above 0 and below 1 was expected");
  if (p < 0.5) return -student_t_quantile(1.0 - p, freedom);
  double high = 1.0;
  while (student_t_below(high, freedom) < p) high *= 2.0;
  return crossing(p, 0.0, high, [&](double t) { return student_t_below(t, freedom); });
}

double noncentral_t_below(double t, double freedom, double shift) {
  // E over s = sqrt(chi² / freedom) of P(Z <= t s - shift); s has mean near 1 and spread
  // 1 / sqrt(2 freedom), so that 12 of these reach beyond every tail that counts.
  const double high = 1.0 + 12.0 / std::sqrt(2.0 * freedom);
  constexpr int kParts = 2000;  // Simpson's rule
  const double width = high / kParts;
  double sum = 0.0;
  for (int i = 0; i <= kParts; ++i) {
    const double s = i * width;
    const double weight = i == 0 || i == kParts ? 1.0 : i % 2 ? 4.0 : 2.0;
    sum += weight * scaled_chi_density(s, freedom) * normal_below(t * s - shift);
  }
  return sum * width / 3.0;
}

PairedTest paired_test(const std::vector<double>& variant, const std::vector<double>& baseline) {
  check(variant.size() == baseline.size(), "paired test", "of ", variant.size(), " and ",
        baseline.size(), " values; as many of each were expected");
  PairedTest test;
  test.pairs = static_cast<int64_t>(variant.size());
  if (variant.empty()) return test;
  std::vector<double> differences;
  for (size_t i = 0; i < variant.size(); ++i) differences.push_back(variant[i] - baseline[i]);
  test.difference = mean_of(differences);
  const std::optional<double> deviation = deviation_of(differences);
  if (!deviation) return test;
  const auto freedom = static_cast<double>(test.pairs - 1);
  const double error = *deviation / std::sqrt(static_cast<double>(test.pairs));
  test.smallest_detectable = detectable_shift(freedom) * error;
  if (error == 0.0) {  // every pair differs by the same
    test.p = *test.difference == 0.0 ? 1.0 : 0.0;
    return test;
  }
  test.p = 2.0 * student_t_below(-std::abs(*test.difference) / error, freedom);
  return test;
}

Line fit_line(const std::vector<double>& x, const std::vector<double>& y) {
  check(x.size() == y.size() && x.size() >= 2, "line", "through ", x.size(),
        " points; at least 2 were expected");
  const double mean_x = mean_of(x), mean_y = mean_of(y);
  double above = 0.0, below = 0.0;
  for (size_t i = 0; i < x.size(); ++i) {
    above += (x[i] - mean_x) * (y[i] - mean_y);
    below += (x[i] - mean_x) * (x[i] - mean_x);
  }
  check(below > 0.0, "line", "through points of one x only; at least two were expected");
  const double slope = above / below;
  return {slope, mean_y - slope * mean_x};
}

}  // namespace formwork

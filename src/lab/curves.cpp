#include "lab/curves.h"

#include <algorithm>
#include <cmath>

#include "lab/figures.h"
#include "lab/statistics.h"

namespace formwork {
namespace {

struct Point {
  int64_t step = 0;
  double tokens = 0.0, seconds = 0.0, value = 0.0;
};

std::vector<Point> points_of(const std::vector<Value>& lines, const std::string& key) {
  std::vector<Point> points;
  for (const Value& line : lines)
    if (const std::optional<double> value = number_at(line, key))
      points.push_back({static_cast<int64_t>(number_at(line, "step").value_or(0)),
                        number_at(line, "tokens").value_or(0),
                        number_at(line, "seconds").value_or(0), *value});
  return points;
}

template <class T>
Value list_of(const std::vector<T>& numbers) {
  return List(numbers.begin(), numbers.end());
}

/// The mean over the points first..end-1 that a seed has; nothing where it has none of them.
std::optional<Point> mean_point(const std::vector<Point>& points, size_t first, size_t end) {
  end = std::min(end, points.size());
  if (first >= end) return std::nullopt;
  Point mean = points[end - 1];
  mean.value = 0.0;
  for (size_t i = first; i < end; ++i) mean.value += points[i].value;
  mean.value /= static_cast<double>(end - first);
  return mean;
}

void append(Curve& curve, const std::vector<Point>& seeds) {
  const auto value_less = [](const Point& a, const Point& b) { return a.value < b.value; };
  Point sum;
  for (const Point& point : seeds) {
    sum.step = std::max(sum.step, point.step);
    sum.tokens += point.tokens;
    sum.seconds += point.seconds;
    sum.value += point.value;
  }
  const auto count = static_cast<double>(seeds.size());
  curve.step.push_back(sum.step);
  curve.tokens.push_back(sum.tokens / count);
  curve.seconds.push_back(sum.seconds / count);
  curve.mean.push_back(sum.value / count);
  curve.low.push_back(std::min_element(seeds.begin(), seeds.end(), value_less)->value);
  curve.high.push_back(std::max_element(seeds.begin(), seeds.end(), value_less)->value);
}

}  // namespace

Value Curve::value() const {
  Value curve{Table{}};
  curve["step"] = list_of(step);
  curve["tokens"] = list_of(tokens);
  curve["seconds"] = list_of(seconds);
  curve["mean"] = list_of(mean);
  curve["low"] = list_of(low);
  curve["high"] = list_of(high);
  return curve;
}

Curve mean_curve(const std::vector<std::vector<Value>>& runs, const std::string& key,
                 int64_t most) {
  std::vector<std::vector<Point>> seeds;
  size_t length = 0;
  for (const std::vector<Value>& lines : runs) {
    seeds.push_back(points_of(lines, key));
    length = std::max(length, seeds.back().size());
  }
  Curve curve;
  const size_t pieces = std::min(length, static_cast<size_t>(most));
  for (size_t piece = 0; piece < pieces; ++piece) {
    std::vector<Point> here;
    for (const std::vector<Point>& points : seeds)
      if (const std::optional<Point> point =
              mean_point(points, piece * length / pieces, (piece + 1) * length / pieces))
        here.push_back(*point);
    append(curve, here);
  }
  return curve;
}

std::optional<Reached> first_at_most(const Curve& curve, double goal) {
  for (size_t i = 0; i < curve.mean.size(); ++i) {
    if (!(curve.mean[i] <= goal)) continue;
    if (i == 0) return Reached{curve.seconds[0], curve.tokens[0]};
    const double part = (curve.mean[i - 1] - goal) / (curve.mean[i - 1] - curve.mean[i]);
    const auto between = [&](const std::vector<double>& axis) {
      return axis[i - 1] + part * (axis[i] - axis[i - 1]);
    };
    return Reached{between(curve.seconds), between(curve.tokens)};
  }
  return std::nullopt;
}

int64_t count_spikes(const std::vector<double>& losses) {
  constexpr size_t kWindow = 64, kLeast = 16;
  int64_t spikes = 0;
  bool inside = false;
  for (size_t i = kLeast; i < losses.size(); ++i) {
    const size_t first = i > kWindow ? i - kWindow : 0;
    std::vector<double> before(losses.begin() + static_cast<std::ptrdiff_t>(first),
                               losses.begin() + static_cast<std::ptrdiff_t>(i));
    const double median = median_of(before);
    for (double& loss : before) loss = std::abs(loss - median);
    const double deviation = 1.4826 * median_of(std::move(before));
    const bool jumped = losses[i] > median + std::max(6.0 * deviation, 0.25 * std::abs(median));
    if (jumped && !inside) ++spikes;
    inside = jumped;
  }
  return spikes;
}

}  // namespace formwork

#include "lab/curves.h"

#include <algorithm>

namespace formwork {
namespace {

struct Point {
  int64_t step = 0;
  double tokens = 0.0, seconds = 0.0, value = 0.0;
};

std::optional<double> number(const Value& table, const std::string& key) {
  const Value* found = table.find(key);
  if (found && found->get<double>()) return *found->get<double>();
  if (found && found->get<int64_t>()) return static_cast<double>(*found->get<int64_t>());
  return std::nullopt;
}

std::vector<Point> points_of(const std::vector<Value>& lines, const std::string& key) {
  std::vector<Point> points;
  for (const Value& line : lines)
    if (const std::optional<double> value = number(line, key))
      points.push_back({static_cast<int64_t>(number(line, "step").value_or(0)),
                        number(line, "tokens").value_or(0), number(line, "seconds").value_or(0),
                        *value});
  return points;
}

template <class T>
Value list_of(const std::vector<T>& numbers) {
  return List(numbers.begin(), numbers.end());
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
  size_t length = SIZE_MAX;
  for (const std::vector<Value>& lines : runs) {
    std::vector<Point> points = points_of(lines, key);
    if (points.empty()) continue;
    length = std::min(length, points.size());
    seeds.push_back(std::move(points));
  }
  Curve curve;
  if (seeds.empty()) return curve;
  const size_t pieces = std::min(length, static_cast<size_t>(most));
  const auto count = static_cast<double>(seeds.size());
  for (size_t piece = 0; piece < pieces; ++piece) {
    const size_t first = piece * length / pieces, end = (piece + 1) * length / pieces;
    double tokens = 0.0, seconds = 0.0, sum = 0.0, low = 0.0, high = 0.0;
    for (const std::vector<Point>& points : seeds) {
      double value = 0.0;
      for (size_t i = first; i < end; ++i) value += points[i].value;
      value /= static_cast<double>(end - first);
      const bool is_first = &points == &seeds.front();
      low = is_first ? value : std::min(low, value);
      high = is_first ? value : std::max(high, value);
      sum += value;
      tokens += points[end - 1].tokens;
      seconds += points[end - 1].seconds;
    }
    curve.step.push_back(seeds.front()[end - 1].step);
    curve.tokens.push_back(tokens / count);
    curve.seconds.push_back(seconds / count);
    curve.mean.push_back(sum / count);
    curve.low.push_back(low);
    curve.high.push_back(high);
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

}  // namespace formwork

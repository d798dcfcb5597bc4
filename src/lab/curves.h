// Curves over the seeds of a variant: the mean, the least and the greatest seed.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/value.h"

namespace formwork {

/// Lists of one length.
struct Curve {
  std::vector<int64_t> step;
  std::vector<double> tokens, seconds, mean, low, high;
  /// {step, tokens, seconds, mean, low, high}.
  Value value() const;
};

/// From the metrics lines of each seed: those that hold `key`, over the seeds that got so far,
/// thinned to `most` points by averaging neighbours.
Curve mean_curve(const std::vector<std::vector<Value>>& runs, const std::string& key,
                 int64_t most = 200);

/// When a curve's mean was first at most `goal`, with a straight line between points.
struct Reached {
  double seconds = 0.0, tokens = 0.0;
};
std::optional<Reached> first_at_most(const Curve& curve, double goal);

/// How often a loss jumped: lines more than 6 robust deviations (of the 64 lines before) and a
/// quarter above the median of these; neighbouring lines are one spike.
int64_t count_spikes(const std::vector<double>& losses);

}  // namespace formwork

// What the benches do with times.
#pragma once

#include <algorithm>
#include <chrono>
#include <vector>

#include "core/value.h"

namespace formwork {

/// Of a clock that never goes back.
inline double milliseconds() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double, std::milli>(Clock::now().time_since_epoch()).count();
}

/// The smallest and the middle one of `times`, which are not empty.
inline double least(const std::vector<double>& times) {
  return *std::min_element(times.begin(), times.end());
}
inline double median(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  return (times[times.size() / 2] + times[(times.size() - 1) / 2]) / 2;
}
/// The distance between the quartiles of `times` as a part of the median.
inline double spread(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  const size_t quarter = (times.size() - 1) / 4;
  return (times[times.size() - 1 - quarter] - times[quarter]) / median(times);
}

/// {median, least, spread}.
inline Value times_table(const std::vector<double>& times) {
  Value table{Table{}};
  table["median"] = Value(median(times));
  table["least"] = Value(least(times));
  table["spread"] = Value(spread(times));
  return table;
}

}  // namespace formwork

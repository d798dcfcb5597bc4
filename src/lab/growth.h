// How the time of a forward pass grows with a size.
#pragma once

#include <string>
#include <vector>

#include "core/value.h"

namespace formwork {

/// Times at each size, the least of several passes, and the exponent of time ~ size^exponent.
struct Growth {
  std::vector<int64_t> sizes;
  std::vector<std::vector<double>> milliseconds;  // one list a repetition
  std::vector<double> exponents;                  // of each repetition
};

/// Builds the model of the recipe `table` with `key` set to each size and times forward passes of
/// one validation item without gradients, `repetitions` times over all sizes.
Growth measure_growth(const Value& table, const std::string& source, const std::string& key,
                      const std::vector<int64_t>& sizes, int64_t repetitions);

/// Times forward passes of two recipes at each size, turn by turn: a list a size of `ours` as a
/// part of `theirs`, one number a repetition.
std::vector<std::vector<double>> measure_ratios(const Value& ours, const Value& theirs,
                                                const std::string& source, const std::string& key,
                                                const std::vector<int64_t>& sizes,
                                                int64_t repetitions);

}  // namespace formwork

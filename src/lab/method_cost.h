// What a method costs on this machine, beside the one that a recipe gets when it names none.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/registry.h"

namespace formwork {

/// Milliseconds of a training step's part at several sizes.
struct MethodCost {
  std::string baseline;        // the axis' default
  std::string what, size;      // what was timed; what the sizes are
  std::vector<int64_t> sizes;  // those that the method could do, growing
  std::vector<double> method, standard;
};

/// Times `method` and its axis' default in turns, each size three times or more, and keeps the
/// least. Methods of a model: forward and backward of a small model with all else default;
/// optimizers: a step. Nothing for other axes and for methods that do not work with the defaults.
std::optional<MethodCost> measure_cost(const MethodInfo& method);

}  // namespace formwork

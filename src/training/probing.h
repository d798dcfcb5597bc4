// Probes at an interval while a model trains.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/value.h"
#include "training/recipe.h"

namespace formwork {

/// One list a series, "attention_entropy" or "attention_entropy.bound", a figure a layer.
using Measured = std::vector<std::pair<std::string, std::vector<double>>>;

/// Measures a model in training as `[train.probe]` asks: on the same first items of the validation
/// data each time, in evaluation mode. What training computes stays the same to the last bit.
class Probing {
 public:
  /// The recipe, model and task outlive it.
  Probing(const Recipe& recipe, Model& model, Task& task)
      : recipe_(recipe), model_(model), task_(task) {}

  /// Whether to measure after step number `step`.
  bool due(int64_t step) const { return step % recipe_.train.probe.every == 0; }
  /// Keeps the weights, for probes of their change.
  void before_step();
  Measured measure();

 private:
  const Recipe& recipe_;
  Model& model_;
  Task& task_;
  std::vector<Tensor> before_;
};

/// The lists as an object; what is no number becomes null.
Value measured_json(const Measured& measured);

}  // namespace formwork

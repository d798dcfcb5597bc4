// Validation: the loss and the task's metrics of a model.
#pragma once

#include <map>
#include <string>

#include "tasks/task.h"
#include "training/distributed.h"

namespace formwork {

/// How much to evaluate, and how.
struct EvaluationRequest {
  int64_t items = 0;  // the first of the validation items; 0 = all
  int64_t batch = 32;
  /// Logits of tokens that may be in memory at once; fewer items than a batch are taken where they
  /// would be more. The default is 128 MB in float32.
  int64_t most_logits = int64_t{1} << 25;
  std::string precision = "float32";
};

/// "validation_loss" and the metrics of the task, over all processes together. The model must be in
/// evaluation mode.
std::map<std::string, double> evaluate(Model& model, Task& task, const EvaluationRequest& request,
                                       Processes& processes);

/// A batch's tensors follow the model's device, its floating-point ones the number type too.
void match_model(Batch& batch, const Model& model);

}  // namespace formwork

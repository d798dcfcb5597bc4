// Explanations for trainings that cannot go on: a loss that is not a number, memory that is short.
#pragma once

#include <string>

#include "model/model.h"
#include "tasks/task.h"

namespace formwork {

/// Runs the model once more and names the first tensor that is not finite: a parameter, or a point
/// such as "layers.2.ffn branch".
std::string first_bad_place(Model& model, const ModelInput& input);

/// Bytes allocated at the worst moment of a forward and backward pass of this batch, beyond what is
/// held now. Leaves parameters, gradients, buffers and counters as they were.
double bytes_of_pass(Model& model, const Task& task, const Batch& batch,
                     const std::string& precision);

/// Fails with the batch that would fit when `batch` times `bytes_per_item`, gradients and optimizer
/// state exceed the memory that is left.
void check_batch_fits(double bytes_per_item, int64_t batch, int64_t accumulate, const Model& model);

}  // namespace formwork

// Forward and backward passes of a training as a CUDA graph.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "tasks/task.h"

namespace formwork {

/// Captures the pass of a batch, after a few that run plainly, and replays it for batches of the
/// same shapes: one launch in place of thousands. A batch of another shape begins anew. The memory
/// of a whole pass stays the graph's. For modules that are steady() only.
class StepGraph {
 public:
  /// The differentiable loss of a batch. All that changes from pass to pass beside the batch and
  /// random numbers is in `numbers`, on the GPU too.
  using Loss = std::function<Tensor(const Batch& batch, const Tensor& numbers)>;

  StepGraph(std::vector<Parameter> parameters, Loss loss);
  ~StepGraph();

  /// Adds the gradients of loss(batch, numbers) to those of the parameters; returns the loss.
  /// Gradients may lie in the graph's memory until the next call.
  Tensor run(const Batch& batch, const Tensor& numbers);
  /// Begins anew. To be called when the model has run otherwise: tables that modules keep from pass
  /// to pass, and the graph reads where they were, may have been replaced.
  void forget();

 private:
  struct Captured;
  Tensor run_plainly(const Batch& batch, const Tensor& numbers) const;
  Tensor run_beside(const Batch& batch, const Tensor& numbers) const;
  void capture(const Batch& batch, const Tensor& numbers);
  Tensor replay(const Batch& batch, const Tensor& numbers);

  std::vector<Parameter> parameters_;
  Loss loss_;
  int passes_ = 0;
  std::unique_ptr<Captured> captured_;
};

}  // namespace formwork

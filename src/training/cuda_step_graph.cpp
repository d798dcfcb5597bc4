#include "training/cuda_step_graph.h"

#include <utility>

#if defined(FORMWORK_CUDA_KERNELS) && FORMWORK_CUDA_KERNELS
#include <ATen/cuda/CUDAGraph.h>
#include <c10/core/GradMode.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "core/error.h"
#endif

namespace formwork {

StepGraph::StepGraph(std::vector<Parameter> parameters, Loss loss)
    : parameters_(std::move(parameters)), loss_(std::move(loss)) {}

StepGraph::~StepGraph() = default;

void StepGraph::forget() {
  captured_.reset();
  passes_ = 0;
}

Tensor StepGraph::run_plainly(const Batch& batch, const Tensor& numbers) const {
  const Tensor loss = loss_(batch, numbers);
  loss.backward();
  return loss.detach();
}

#if defined(FORMWORK_CUDA_KERNELS) && FORMWORK_CUDA_KERNELS

/// What a graph reads and writes, at addresses that stay.
struct StepGraph::Captured {
  Batch batch;
  Tensor numbers, loss;
  std::vector<Tensor> gradients;  // of the parameters; undefined: none
  at::cuda::CUDAGraph graph;
};

namespace {

/// Passes before the capture: libraries and methods make their workspaces and tables in them.
constexpr int kPlainPasses = 3;

/// A graph is captured on a stream of its own, and so are the passes before it.
c10::cuda::CUDAStream stream_beside() {
  static const c10::cuda::CUDAStream stream = c10::cuda::getStreamFromPool();
  return stream;
}

bool same_shapes(const Batch& a, const Batch& b) {
  const auto in_a = a.tensors(), in_b = b.tensors();
  for (size_t i = 0; i < in_a.size(); ++i) {
    if (in_a[i]->defined() != in_b[i]->defined()) return false;
    if (in_a[i]->defined() && in_a[i]->sizes() != in_b[i]->sizes()) return false;
  }
  return true;
}

}  // namespace

Tensor StepGraph::run_beside(const Batch& batch, const Tensor& numbers) const {
  c10::cuda::device_synchronize();
  Tensor loss;
  {
    const c10::cuda::CUDAStreamGuard guard(stream_beside());
    loss = run_plainly(batch, numbers);
  }
  c10::cuda::device_synchronize();
  return loss;
}

void StepGraph::capture(const Batch& batch, const Tensor& numbers) {
  auto made = std::make_unique<Captured>();
  made->batch = batch;
  for (Tensor* tensor : made->batch.tensors())
    if (tensor->defined()) *tensor = tensor->clone();
  made->numbers = numbers.clone();
  // The graph's gradients begin anew in every pass; those of earlier passes are added afterwards.
  std::vector<Tensor> earlier;
  for (Parameter& parameter : parameters_)
    earlier.push_back(std::exchange(parameter.tensor.mutable_grad(), Tensor()));
  c10::cuda::device_synchronize();
  // While a graph is captured no memory of others, such as an earlier graph's, can be freed.
  c10::cuda::CUDACachingAllocator::emptyCache();
  try {
    const c10::cuda::CUDAStreamGuard guard(stream_beside());
    made->graph.capture_begin();
    made->loss = run_plainly(made->batch, made->numbers);
    made->graph.capture_end();
  } catch (const std::exception& error) {
    const std::string text = error.what();
    fail("train.cuda_graph", "a pass of this model cannot be captured (",
         text.substr(0, text.find('\n')), "); set it to false");
  }
  for (size_t i = 0; i < parameters_.size(); ++i)
    made->gradients.push_back(
        std::exchange(parameters_[i].tensor.mutable_grad(), std::move(earlier[i])));
  captured_ = std::move(made);
}

Tensor StepGraph::replay(const Batch& batch, const Tensor& numbers) {
  const c10::NoGradGuard no_grad;
  // What the last pass left in the graph's memory and nobody has used yet.
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Tensor& gradient = parameters_[i].tensor.mutable_grad();
    if (gradient.defined() && gradient.is_same(captured_->gradients[i]))
      gradient = gradient.clone();
  }
  const auto to = captured_->batch.tensors();
  const auto from = batch.tensors();
  for (size_t i = 0; i < to.size(); ++i)
    if (to[i]->defined()) to[i]->copy_(*from[i]);
  captured_->numbers.copy_(numbers);
  captured_->graph.replay();
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Tensor& found = captured_->gradients[i];
    if (!found.defined()) continue;
    Tensor& gradient = parameters_[i].tensor.mutable_grad();
    gradient = gradient.defined() ? gradient + found : found;
  }
  return captured_->loss;
}

Tensor StepGraph::run(const Batch& batch, const Tensor& numbers) {
  if (captured_ && !same_shapes(captured_->batch, batch)) forget();
  if (!captured_) {
    if (++passes_ <= kPlainPasses) return run_beside(batch, numbers);
    capture(batch, numbers);
  }
  return replay(batch, numbers);
}

#else

struct StepGraph::Captured {};

Tensor StepGraph::run(const Batch& batch, const Tensor& numbers) {
  return run_plainly(batch, numbers);
}

#endif

}  // namespace formwork

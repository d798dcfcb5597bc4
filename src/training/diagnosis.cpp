#include "training/diagnosis.h"

#include <c10/core/GradMode.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <algorithm>
#include <cmath>

#include "core/memory.h"
#include "core/peak_bytes.h"
#include "methods/collective.h"
#include "training/precision.h"

namespace formwork {
namespace {

class FirstBad final : public Observer {
 public:
  void see(const std::string& point, const Tensor& tensor) override {
    if (place_.empty() && tensor.defined() && tensor.is_floating_point() &&
        !at::isfinite(tensor).all().item<bool>())
      place_ = point;
  }
  const std::string& place() const { return place_; }

 private:
  std::string place_;
};

}  // namespace

std::string first_bad_place(Model& model, const ModelInput& input) {
  for (const Parameter& parameter : model.parameters())
    if (!at::isfinite(parameter.tensor).all().item<bool>())
      return "parameter " + parameter.name + " is not finite since an earlier step";
  const c10::NoGradGuard no_grad;
  const AloneGuard alone;  // the other processes may have no bad loss to look for
  FirstBad observer;
  ModelInput observed = input;
  observed.observer = &observer;
  const ModelOutput out = model.forward(observed);
  if (!observer.place().empty()) return "first bad values at " + observer.place();
  if (!at::isfinite(out.y).all().item<bool>()) return "first bad values at the head's output";
  return "the model's output is finite, the loss of it is not";
}

double bytes_of_pass(Model& model, const Task& task, const Batch& batch,
                     const std::string& precision) {
  std::vector<std::pair<Tensor, Tensor>> buffers;  // a pass moves running statistics
  for (const auto& [name, tensor] : model.buffers()) buffers.emplace_back(tensor, tensor.clone());
  const AloneGuard alone;
  const auto peak = std::make_shared<PeakBytes>();
  {
    const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, peak);
    Tensor loss;
    {
      const PrecisionGuard autocast(precision, model.device().type());
      const ModelOutput out = model.forward(batch.input);
      loss = task.loss_of(out, batch).sum;
      for (const Tensor& extra : out.losses) loss = loss + extra;
    }
    loss.backward();
  }
  for (Parameter& parameter : model.parameters()) parameter.tensor.mutable_grad().reset();
  const c10::NoGradGuard no_grad;
  for (auto& [tensor, before] : buffers) tensor.copy_(before);
  // The gradients of the parameters are counted by check_batch_fits, once a model, not once an
  // item.
  double gradients = 0.0;
  for (const Parameter& parameter : model.parameters())
    gradients += static_cast<double>(parameter.tensor.nbytes());
  return std::max(0.0, static_cast<double>(peak->peak()) - gradients);
}

void check_batch_fits(double bytes_per_item, int64_t batch, int64_t accumulate,
                      const Model& model) {
  const double left = static_cast<double>(available_memory());
  if (left <= 0.0) return;
  double fixed = 0.0;  // gradients and two moments
  for (const Parameter& parameter : model.parameters())
    fixed += 3.0 * static_cast<double>(parameter.tensor.nbytes());
  const double need = fixed + bytes_per_item * static_cast<double>(batch);
  if (need <= left) return;
  const int64_t fits = static_cast<int64_t>((0.9 * left - fixed) / bytes_per_item);
  if (fits < 1)
    fail("train.batch", "out of memory: one item needs ", gigabytes(fixed + bytes_per_item),
         " GB and ", gigabytes(left),
         " GB are left; make model.width, model.depth or task.length smaller");
  const int64_t passes = (batch * accumulate + fits - 1) / fits;
  fail("train.batch", "out of memory: a batch of ", batch, " needs ", gigabytes(need), " GB and ",
       gigabytes(left), " GB are left; train.batch = ", fits,
       " would fit (with train.accumulate = ", passes,
       " a step learns from as many items as before)");
}

}  // namespace formwork

#include "training/evaluation.h"

#include <c10/core/GradMode.h>

#include <algorithm>

#include "training/precision.h"

namespace formwork {

void match_model(Batch& batch, const Model& model) {
  const at::Device device = model.device();
  const at::ScalarType type = model.type();
  for (Tensor* tensor : batch.tensors())
    if (tensor->defined())
      *tensor = tensor->to(device, tensor->is_floating_point() ? type : tensor->scalar_type());
}

namespace {

int64_t items_at_once(const Task& task, const EvaluationRequest& request) {
  const TaskForm form = task.form();
  if (form.output.kind != OutputForm::Kind::tokens) return request.batch;
  const int64_t logits = form.output.size * std::max<int64_t>(1, form.input.length);
  return std::clamp<int64_t>(request.most_logits / std::max<int64_t>(1, logits), 1, request.batch);
}

}  // namespace

std::map<std::string, double> evaluate(Model& model, Task& task, const EvaluationRequest& request,
                                       Processes& processes) {
  // Not inference mode: tables cached now (rotary) are used in training again.
  const c10::NoGradGuard no_grad;
  const int64_t all = task.validation_items();
  const int64_t items = request.items > 0 ? std::min(request.items, all) : all;
  const int64_t size = items_at_once(task, request);
  const int64_t batches = (items + size - 1) / size;
  double sum = 0.0, count = 0.0;
  MetricSums sums;
  for (int64_t b = processes.rank(); b < batches; b += processes.size()) {
    const int64_t first = b * size;
    Batch batch = task.validation_batch(first, std::min(size, items - first));
    match_model(batch, model);
    const PrecisionGuard precision(request.precision, model.device().type());
    const ModelOutput out = model.forward(batch.input);
    const LossSum loss = task.loss(out.y, batch);
    sum += loss.sum.item<double>();
    count += loss.count;
    for (const auto& [name, value] : task.metric_sums(out.y, batch)) sums[name] += value;
  }
  if (processes.size() > 1) {
    sums = processes.sum(sums);
    sum = processes.sum(sum);
    count = processes.sum(count);
  }
  std::map<std::string, double> result = task.metrics(sums);
  result["validation_loss"] = sum / count;
  return result;
}

}  // namespace formwork

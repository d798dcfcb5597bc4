#include "tasks/task.h"

namespace formwork {
namespace {

/// Sums over a batch need more digits than 16-bit numbers have.
Tensor at_least_float(const Tensor& x) {
  return x.element_size() < 4 ? x.to(at::kFloat) : x;
}

double targets_in(const Tensor& target) {
  return static_cast<double>(target.ge(0).sum().item<int64_t>());
}

Tensor cross_entropy_total(const Tensor& logits, const Tensor& target,
                           const CrossEntropyRule& rule) {
  const Tensor wide = at_least_float(logits).flatten(0, -2), flat = target.flatten();
  const Tensor sum = at::cross_entropy_loss(wide, flat, {}, at::Reduction::Sum, -1, rule.smoothing);
  if (rule.z_loss == 0.0) return sum;
  return sum + rule.z_loss * wide.logsumexp(-1).square().masked_fill(flat < 0, 0.0).sum();
}

}  // namespace

LossSum cross_entropy_sum(const Tensor& logits, const Tensor& target,
                          const CrossEntropyRule& rule) {
  return {cross_entropy_total(logits, target, rule), targets_in(target)};
}

double Task::target_count(const Batch& batch) const {
  if (batch.counted) return *batch.counted;
  if (batch.target.is_floating_point()) return static_cast<double>(batch.target.numel());
  return targets_in(batch.target);
}

LossSum Task::loss(const Tensor& output, const Batch& batch, const CrossEntropyRule& rule) const {
  if (form().output.kind != OutputForm::Kind::values)
    return {cross_entropy_total(output, batch.target, rule), target_count(batch)};
  LossSum loss;
  loss.count = static_cast<double>(batch.target.numel());
  loss.sum = (at_least_float(output) - batch.target).square().sum();
  return loss;
}

LossSum Task::loss_of(const ModelOutput& output, const Batch& batch,
                      const CrossEntropyRule& rule) const {
  if (!output.unprojected) return loss(output.y, batch, rule);
  const Unprojected& part = *output.unprojected;
  LossSum loss;
  loss.count = target_count(batch);
  loss.sum = projected_cross_entropy(part.x, part.weight, part.bias, batch.target, rule);
  return loss;
}

MetricSums Task::metric_sums(const Tensor& output, const Batch& batch) const {
  if (form().output.kind == OutputForm::Kind::values) {
    const Tensor error = at_least_float(output) - batch.target;
    return {{"squared", error.square().sum().item<double>()},
            {"absolute", error.abs().sum().item<double>()},
            {"count", static_cast<double>(error.numel())}};
  }
  const Tensor counted = batch.target.ge(0);
  const Tensor right = output.argmax(-1).eq(batch.target).logical_and(counted);
  return {{"right", static_cast<double>(right.sum().item<int64_t>())},
          {"count", static_cast<double>(counted.sum().item<int64_t>())}};
}

std::map<std::string, double> Task::metrics(const MetricSums& sums) const {
  const double count = sums.at("count");
  if (form().output.kind == OutputForm::Kind::values)
    return {{"mse", sums.at("squared") / count}, {"mae", sums.at("absolute") / count}};
  return {{"accuracy", sums.at("right") / count}};
}

std::vector<int64_t> Task::encode(const std::string&) const {
  refuse("task.kind",
         "this task has no text to read; generate works with characters, bytes and "
         "sequence tasks");
}

std::string Task::decode(const std::vector<int64_t>&) const {
  refuse("task.kind",
         "this task has no text to write; generate works with characters, bytes and "
         "sequence tasks");
}

void Task::write_data(const std::string&, int64_t) {
  refuse("task.kind", "this task reads files and makes none; generators: listops, sequence");
}

}  // namespace formwork

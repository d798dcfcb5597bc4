// Axis "task": where batches come from, what the loss is and how success is measured.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/registry.h"
#include "kernels/projected_cross_entropy.h"
#include "methods/module.h"
#include "model/model.h"

namespace formwork {

/// One batch. Only the tensors a task uses are defined.
struct Batch {
  ModelInput input;
  Tensor target;       // classes [B]; tokens [B,N] int64, -1 = not counted; values [B,horizon,C]
  int64_t size = 0;    // B
  int64_t tokens = 0;  // B·N, what "tokens a second" counts
  /// Task::target_count, where it was asked before the tensors went where reading them waits.
  std::optional<double> counted = std::nullopt;

  /// All tensors, some of them undefined, always in one order.
  std::array<Tensor*, 6> tensors() {
    return {&input.input,        &input.valid,      &input.source,
            &input.source_valid, &input.timestamps, &target};
  }
  std::array<const Tensor*, 6> tensors() const {
    return {&input.input,        &input.valid,      &input.source,
            &input.source_valid, &input.timestamps, &target};
  }
};

/// The part of a loss that adds up over batches: mean = sum / count.
struct LossSum {
  Tensor sum;          // scalar, differentiable
  double count = 0.0;  // targets counted
};

/// Sums that a metric is computed from, by name; they add up over batches and processes.
using MetricSums = std::map<std::string, double>;

struct TaskSite {
  RandomStream random{0};  // for data: independent of initialisation and dropout
};

class Task {
 public:
  static constexpr const char* kAxis = "task";
  using Context = TaskSite;
  struct Traits {};

  virtual ~Task() = default;
  virtual TaskForm form() const = 0;
  /// Items in one pass over the training data; 0 = generated without end.
  virtual int64_t training_items() const { return 0; }
  virtual int64_t validation_items() const = 0;
  /// Items first .. first+count-1 of the training stream: a pure function of the seed and the
  /// index, so that resuming, prefetching and splitting over processes never change the order.
  /// Streams over finite data pass through a new permutation each epoch. Called from one other
  /// thread at a time.
  virtual Batch training_batch(int64_t first, int64_t count) = 0;
  /// The fixed validation items first .. first+count-1.
  virtual Batch validation_batch(int64_t first, int64_t count) = 0;

  /// Targets that `loss` will count, without running the model.
  virtual double target_count(const Batch& batch) const;
  /// The default: cross-entropy in nats for classes and tokens, by the rule; squared error for
  /// values, which know no rule.
  virtual LossSum loss(const Tensor& output, const Batch& batch,
                       const CrossEntropyRule& rule = {}) const;
  /// Whether loss() is the default's for tokens, which training then takes without having all
  /// logits in memory. A task of tokens that overrides loss() says false.
  virtual bool plain_token_loss() const { return form().output.kind == OutputForm::Kind::tokens; }
  /// loss() of what a model has put out, its logits there or not.
  LossSum loss_of(const ModelOutput& output, const Batch& batch,
                  const CrossEntropyRule& rule = {}) const;
  /// The default counts accuracy for classes and tokens, squared and absolute errors for values.
  virtual MetricSums metric_sums(const Tensor& output, const Batch& batch) const;
  /// From sums over all batches to named figures ("accuracy", "bits_per_character", "mse").
  virtual std::map<std::string, double> metrics(const MetricSums& sums) const;
  /// The figure that says how good a model is, and whether more is better. "validation_loss" is
  /// always valid.
  virtual std::string main_metric() const { return "validation_loss"; }
  virtual bool more_is_better() const { return false; }

  /// What a run depends on beyond its recipe: sizes and vocabulary of the data that was read, as
  /// one line. Empty for data that the recipe alone decides. A run saves it and compares it on
  /// resume.
  virtual std::string fingerprint() const { return ""; }

  /// Text to token ids and back, for tasks of tokens that people can read (generate); refuses by
  /// default.
  virtual std::vector<int64_t> encode(const std::string& text) const;
  virtual std::string decode(const std::vector<int64_t>& ids) const;
  /// Writes what the task's generator makes into `folder`, in the format its reader takes.
  virtual void write_data(const std::string& folder, int64_t items);
};

/// "Cross-entropy in nats over targets != -1": sum and count. logits [..., V], target [...]. The
/// rule's smoothing and z-loss are as in projected_cross_entropy.
LossSum cross_entropy_sum(const Tensor& logits, const Tensor& target,
                          const CrossEntropyRule& rule = {});

}  // namespace formwork

// One model being trained: steps and evaluations, without files or screens.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "model/model.h"
#include "training/cuda_step_graph.h"
#include "training/distributed.h"
#include "training/prefetch.h"
#include "training/recipe.h"

namespace formwork {

/// What one step did.
struct StepResult {
  double loss = 0.0;           // mean over the targets of the whole step, all processes together
  double rate = 0.0;           // learning rate used
  double gradient_norm = 0.0;  // before clipping; 0 when no constraint measures it
};

/// Counters that a checkpoint carries.
struct Progress {
  int64_t step = 0;
  double tokens = 0.0, flops = 0.0, seconds = 0.0;
};

class Trainer {
 public:
  /// Builds task, model and optimizer. `processes` outlives the trainer. The model begins with the
  /// tensors `start` of recipe.train.start_from, if given.
  Trainer(Recipe& recipe, Processes& processes,
          const std::map<std::string, Tensor>* start = nullptr);
  ~Trainer();

  StepResult step();
  /// Validation loss, the task's metrics; on all processes together.
  std::map<std::string, double> evaluate();
  /// Whether a budget is used up.
  bool finished() const;
  /// Part of the budget used, 0 to 1.
  double fraction() const;
  /// Planned number of steps; an estimate where the budget is not in steps, 0 before it is known.
  int64_t planned_steps() const;

  std::map<std::string, Tensor> model_tensors();
  std::map<std::string, Tensor> optimizer_tensors();
  /// Puts tensors and counters back; refuses what does not fit, by name.
  void restore(const std::map<std::string, Tensor>& model,
               const std::map<std::string, Tensor>& optimizer, const Progress& progress);
  /// The point to evaluate and save / to train at (they differ for averaging optimizers).
  void settle_for_saving() { optimizer_->eval(); }
  void go_on_training() { optimizer_->train(); }

  const Progress& progress() const { return progress_; }
  Model& model() { return *model_; }
  Task& task() const { return *task_; }
  /// Refuses, with what would fit, when a step is going to need more memory than there is. Knows
  /// the CPU's memory only.
  void check_memory();

 private:
  double step_loss(const std::vector<Batch>& batches, double count);
  ModelOutput run_model(const Batch& batch);
  /// The batch's part of the step's loss. `numbers`: the step's targets, and the part of them that
  /// the batch has.
  Tensor batch_loss(const Batch& batch, const Tensor& numbers);
  bool captures() const;
  void reduce_gradients();
  [[noreturn]] void explain_bad_loss(double loss, const std::vector<Batch>& batches);
  int64_t first_item(int64_t micro_batch) const;
  void start_data();

  Recipe& recipe_;
  Processes& processes_;
  at::Device device_;
  std::shared_ptr<Task> task_;
  std::shared_ptr<Model> model_;
  std::vector<Parameter> parameters_;
  std::shared_ptr<Optimizer> optimizer_;
  std::shared_ptr<Schedule> schedule_;
  std::vector<std::shared_ptr<Constraint>> constraints_;
  std::unique_ptr<Prefetcher> data_;
  std::unique_ptr<StepGraph> graph_;  // null: passes run plainly
  Progress progress_;
  double flops_per_step_ = 0.0;
};

/// Puts a saved model's tensors into a model; refuses missing, unknown and misshapen ones by name.
void load_model(Model& model, const std::map<std::string, Tensor>& saved, const std::string& where);

}  // namespace formwork

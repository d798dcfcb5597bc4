// A recipe: everything about one experiment, from a TOML file and the command line.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "methods/constraint/constraint.h"
#include "methods/optimizer/optimizer.h"
#include "methods/schedule/schedule.h"
#include "model/options.h"
#include "tasks/task.h"

namespace formwork {

/// When training ends: whichever of the given limits is reached first.
struct BudgetOptions {
  std::optional<int64_t> steps;
  std::optional<double> tokens, seconds, flops;
  void describe(OptionSet& o);
  bool empty() const { return !steps && !tokens && !seconds && !flops; }
};

struct EvaluateOptions {
  int64_t every = 0;
  int64_t items = 0;
  int64_t batch = 0;
  void describe(OptionSet& o);
};

struct CheckpointOptions {
  int64_t every = 0;
  int64_t keep = 2;
  bool best = true;
  void describe(OptionSet& o);
};

struct EarlyStopOptions {
  int64_t patience = 0;
  double min_delta = 0.0;
  void describe(OptionSet& o);
};

/// `[train.probe]`: what is measured inside the model while it trains.
struct ProbeOptions {
  int64_t every = 100;
  int64_t items = 16;
  std::vector<std::string> kinds;
  void describe(OptionSet& o);
};

struct TrainOptions {
  int64_t batch = 32;
  int64_t accumulate = 1;
  int64_t seed = 1;
  std::string precision = "float32";
  double label_smoothing = 0.0;
  double z_loss = 0.0;
  std::string activation_checkpointing = "none";
  int64_t log_every = 10;
  int64_t prefetch = 2;
  int64_t threads = 0;
  std::string device = "cpu";
  bool cuda_graph = true;
  std::string start_from;
  BudgetOptions budget;
  EvaluateOptions evaluate;
  CheckpointOptions checkpoint;
  EarlyStopOptions early_stop;
  ProbeOptions probe;
  void describe(OptionSet& o);
};

/// The optimizer's surroundings settled: which defaults a recipe gets.
struct Recipe {
  std::string name = "run";  // of the file; names the run folder
  Choice<Task> task{"listops"};
  ModelOptions model;
  Choice<Optimizer> optimizer{"adamw"};
  Choice<Schedule> schedule{"cosine"};
  std::vector<Choice<Constraint>> constraints;
  TrainOptions train;
  Value variants;

  /// Reads the file, applies `overrides` ("key=value"), fills in every default, and refuses what
  /// cannot work. Builds nothing but the task (which may read its data).
  static Recipe read(const std::string& path, const std::vector<std::string>& overrides = {});
  /// The same from a table; `source` names it in messages.
  static Recipe from(const Value& table, const std::string& source);
  /// The resolved recipe as TOML: reading it again gives the same recipe.
  std::string resolved();

  void describe(OptionSet& o);
  /// The task of this recipe; made on first use, since it may read much data.
  std::shared_ptr<Task> make_task();

 private:
  void settle(const Value& table);
  std::shared_ptr<Task> made_task_;
};

}  // namespace formwork

// A training from beginning to end with its folder, and a trained run taken up again.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "training/checkpoint.h"
#include "training/progress.h"
#include "training/trainer.h"

namespace formwork {

/// Where a training shows how far it is; the library itself never prints.
struct Console {
  ProgressStyle style;
  std::function<void(std::string_view)> write = [](std::string_view) {};
};

/// What came out of a training.
struct RunOutcome {
  std::string folder;
  std::string reason;  // "budget used", "no improvement", "stopped by a signal"
  bool complete = false;
  Progress progress;
  std::map<std::string, double> metrics;  // of the last evaluation
};

/// Trains `recipe` into the folder `out` (made; refused when it holds anything), or into
/// runs/<name>-<date>-<time> when `out` is empty. Saves and ends cleanly on SIGINT and SIGTERM.
RunOutcome train_run(Recipe& recipe, const std::string& out, Processes& processes,
                     const Console& console);

/// Goes on with the run in `folder` from its newest whole checkpoint, or from `checkpoint`, as if
/// it had never stopped. `overrides` change its recipe, for example a longer train.budget.steps.
RunOutcome resume_run(const std::string& folder, const std::string& checkpoint,
                      const std::vector<std::string>& overrides, Processes& processes,
                      const Console& console);

/// A trained model ready for use.
struct LoadedRun {
  Recipe recipe;
  std::shared_ptr<Task> task;
  std::shared_ptr<Model> model;  // in evaluation mode
  int64_t step = 0;
  std::string checkpoint;  // its path
};

/// Loads a run's best checkpoint (by the task's main metric; the newest where none is marked), or
/// the one at `path` when that is a checkpoint itself.
LoadedRun load_run(const std::string& path, const std::vector<std::string>& overrides = {});

}  // namespace formwork

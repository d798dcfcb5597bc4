// Trains the runs of a comparison, several at a time, each as a process of its own.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "lab/child_process.h"
#include "lab/comparison_folder.h"

namespace formwork {

/// How far a run is, from the last lines of its metrics.
struct RunProgress {
  RunState state = RunState::missing;
  double fraction = 0.0;  // of the budget used
  int64_t step = 0;
  double seconds = 0.0;
  std::optional<double> loss, metric, tokens_per_second;
  std::string failure;
};

struct RunnerOptions {
  int64_t jobs = 1;     // runs at a time
  int64_t threads = 1;  // of each run
  bool retry = false;   // runs that failed are trained again
};

/// What happened to a run, for people to read.
struct RunEvent {
  const RunPlace* run = nullptr;
  std::string what;  // "started", "done: accuracy 0.41 ...", ...
};

/// Goes through all runs that are not done yet: finished ones are kept, interrupted ones resumed.
/// A run that fails is noted and does not stop the others; one that a signal ended is tried three
/// times.
class Runner {
 public:
  Runner(const ComparisonFolder& folder, const RunnerOptions& options);

  /// Called often; `event` when something happened.
  std::function<void(const std::vector<RunProgress>&)> on_progress;
  std::function<void(const RunEvent&)> on_event;

  /// Trains until all is done, or until SIGINT or SIGTERM: then the runs save and stop, too.
  /// Returns whether it came to the end.
  bool run();
  const std::vector<RunPlace>& places() const { return places_; }
  const std::vector<RunProgress>& progress() const { return progress_; }

 private:
  bool start_next();
  bool start(size_t index);
  void collect_ended();
  void ended(size_t index, const ProcessEnd& end);
  void settle_failure(size_t index, RunState state, const std::string& sentence);
  void update();
  void tell(size_t index, const std::string& what);

  const ComparisonFolder& folder_;
  RunnerOptions options_;
  std::vector<RunPlace> places_;
  std::vector<RunProgress> progress_;
  std::vector<int> attempts_;
  std::map<size_t, ChildProcess> running_;
  bool stopping_ = false;
};

/// Reads how far a run is.
RunProgress progress_of(const RunPlace& run, const Plan& plan);
/// Trains one run in a process of its own and waits; for queues that start one job each.
RunProgress train_one(const ComparisonFolder& folder, const RunPlace& run, int64_t threads,
                      bool retry);

}  // namespace formwork

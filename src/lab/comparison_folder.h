// The folder of a comparison: its plan, its runs and how far each of them is.
#pragma once

#include <optional>
#include <string>

#include "core/value.h"
#include "lab/plan.h"

namespace formwork {

enum class RunState { missing, interrupted, running, done, failed, diverged };
/// "missing", "interrupted", ...
const char* state_name(RunState state);

/// Where a run is, and what is to know of it without reading its metrics.
struct RunPlace {
  const Variant* variant = nullptr;
  int64_t seed = 0;
  std::string name;     // "rms-norm/seed-2"
  std::string folder;   // an ordinary run folder
  std::string recipe;   // the variant's resolved recipe
  std::string log;      // what its training said on standard error
  std::string outcome;  // written when it failed
};

struct RunStatus {
  RunState state = RunState::missing;
  std::string failure;  // one sentence where it failed or diverged
};

///   plan.json  recipes/<variant>.toml  runs/<variant>/seed-<s>/  logs/  latency.json
///   summary.json  summary.csv  runs.csv  summary.md  report.html
class ComparisonFolder {
 public:
  /// Makes the folder for `plan`, or takes it up again; refuses one that holds anything else, and
  /// a plan that would mix with what is there.
  static ComparisonFolder adopt(const std::string& path, const Plan& plan);
  /// Opens a comparison that was begun.
  static ComparisonFolder open(const std::string& path);
  /// Whether `path` is the folder of a comparison.
  static bool is_one(const std::string& path);

  ComparisonFolder(ComparisonFolder&& other) noexcept;
  ComparisonFolder(const ComparisonFolder&) = delete;
  ComparisonFolder& operator=(const ComparisonFolder&) = delete;
  ~ComparisonFolder();

  const std::string& path() const { return path_; }
  const Plan& plan() const { return plan_; }
  std::string file(const std::string& name) const;
  /// Keeps other processes from training this comparison as long as this object lives; refuses,
  /// naming the process, when one does.
  void lock();

  /// The same folder with fewer runs in its plan; for one that trains only some of them.
  ComparisonFolder narrowed(const Plan& plan) const { return {path_, plan}; }

  /// Every run, the first seed of all variants before the second.
  std::vector<RunPlace> runs() const;
  RunPlace run(const Variant& variant, int64_t seed) const;
  /// The run called "<variant>/seed-<s>"; refuses unknown names.
  RunPlace run(const std::string& name) const;

 private:
  ComparisonFolder(std::string path, Plan plan);

  std::string path_;
  Plan plan_;
  int lock_ = -1;
};

/// How far a run is. A run counts as running when its files changed less than a minute ago.
RunStatus status_of(const RunPlace& run);
/// Whether some process trains in the run's folder at this moment.
bool is_locked(const RunPlace& run);
/// Notes that a run failed, so that it is not tried again.
void note_failure(const RunPlace& run, RunState state, const std::string& sentence);
/// Forgets that, and all the run has made.
void forget(const RunPlace& run);
/// Whether a failure's sentence tells of a loss that was not a number.
RunState state_of_failure(const std::string& sentence);

}  // namespace formwork

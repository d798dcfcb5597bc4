// The folder that holds all that one training produces.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/value.h"
#include "training/checkpoint.h"
#include "training/metrics_log.h"

namespace formwork {

/// A run folder that this process trains in: locked as long as the object lives.
///
///   recipe.toml  machine.json  metrics.jsonl  events.*  checkpoints/step-N/  summary.json
///   report.html
class RunFolder {
 public:
  /// Makes the folder at `path` and those above it. A folder that holds anything is refused:
  /// nothing is ever written over.
  static RunFolder create(const std::string& path);
  /// Makes <parent>/<recipe's name>-<date>-<time>, with -2, -3, ... where that is taken.
  static RunFolder create_named(const std::string& parent, const std::string& recipe_path);
  /// Opens the folder of a run to go on with it and removes what a killed writer left there.
  static RunFolder open(const std::string& path);

  RunFolder(RunFolder&& other) noexcept;
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;
  ~RunFolder();

  const std::string& path() const { return path_; }
  /// The path of a file in the folder.
  std::string file(const std::string& name) const;

  /// recipe.toml: the resolved recipe.
  void write_recipe(const std::string& toml);
  /// machine.json, see describe_machine(). A run that goes on elsewhere adds machine-2.json,
  /// -3, ...: every machine that trained is known.
  void write_machine(const Value& machine);
  /// summary.json: what came out.
  void write_summary(const Value& summary);
  /// metrics.jsonl.
  MetricsLog& metrics() { return metrics_; }

  /// Saves a checkpoint after all metrics of its step are on disk, then removes those that the rule
  /// does not keep. Returns its path.
  std::string save(const Checkpoint& checkpoint, const KeepRule& rule);
  /// Goes back to `step`: metrics and checkpoints after it are removed, since they are made again.
  void rewind(int64_t step);

 private:
  RunFolder(std::string path, int lock);

  std::string path_;
  int lock_;  // held by flock while the descriptor is open
  MetricsLog metrics_;
};

/// The name that create_named() starts from: "<stem of the recipe's path>-YYYY-MM-DD-HHMMSS".
std::string default_run_name(const std::string& recipe_path, int64_t unix_seconds);

}  // namespace formwork

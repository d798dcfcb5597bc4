// Checkpoints of a run: complete or not there at all, and verified when they are read.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/value.h"
#include "formats/tensors.h"

namespace formwork {

/// All that a training needs to go on from a step as if it had never stopped.
struct Checkpoint {
  int64_t step = 0;
  TensorMap model;
  TensorMap optimizer;
  std::string recipe;               ///< the resolved recipe, TOML
  Value progress = Value(Table{});  ///< counters and metrics: tokens, seconds, validation_loss, ...
};

/// A folder checkpoints/step-N of a run.
struct CheckpointPlace {
  int64_t step = 0;
  std::string path;
};

/// Which checkpoints outlive the next one: the newest `last` ones, and the one whose progress has
/// the best `metric` (none where `metric` is empty).
struct KeepRule {
  int64_t last = 2;
  std::string metric = "validation_loss";
  bool lower_is_better = true;
};

/// Writes <run_folder>/checkpoints/step-N (model.safetensors, optimizer.safetensors, recipe.toml,
/// progress.json, checksums.json) and returns its path. It is written under another name, synced to
/// disk and renamed, so a crash at any moment leaves what was there before. Replaces a checkpoint
/// of the same step. Errors (Fault::failure: disk full, ...) name the file and the bytes needed.
std::string save_checkpoint(const std::string& run_folder, const Checkpoint& checkpoint);

/// Reads a checkpoint after verifying the size and checksum of each file. Errors name the file,
/// what is wrong with it (missing, truncated, altered) and the newest whole checkpoint beside it. A
/// path that is no checkpoint is a Fault::request, a damaged checkpoint a Fault::failure.
Checkpoint load_checkpoint(const std::string& path);

/// What is wrong with a checkpoint: "<file>: <what>"; nothing where it is whole.
std::optional<std::string> checkpoint_damage(const std::string& path);

/// The checkpoints of a run by step, whole or not.
std::vector<CheckpointPlace> list_checkpoints(const std::string& run_folder);

/// The newest whole checkpoint of a run. The faults of newer, damaged ones go to `damaged`.
std::optional<CheckpointPlace> latest_checkpoint(const std::string& run_folder,
                                                 std::vector<std::string>* damaged = nullptr);

/// Removes the checkpoints that the rule does not keep. Call it after a save: at least one stays.
void prune_checkpoints(const std::string& run_folder, const KeepRule& rule);

/// Removes the checkpoints after `step`, newest first: a training that goes on from `step` replaces
/// them.
void remove_checkpoints_after(const std::string& run_folder, int64_t step);

/// Removes what writers that died left under checkpoints/. Only for the one process that may write
/// there (the one that holds the run folder's lock).
void remove_leftovers(const std::string& run_folder);

}  // namespace formwork

// `formwork compare`: variants of a recipe trained on equal terms, and what came out of it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "lab/comparison_folder.h"
#include "training/run.h"

namespace formwork {

struct CompareRequest {
  std::string recipe;  // a recipe, or the folder of a comparison to go on with
  std::vector<std::string> overrides;
  int64_t seeds = 3;
  std::string equal;  // empty: what the recipe's budget counts
  int64_t jobs = 0;   // runs at a time; 0 = as many as there are cores, one thread each
  std::string out;    // empty: comparisons/<recipe's name>
  bool retry = false;
  std::optional<int64_t> watch;  // port of this machine that shows the report while it grows
  std::string command;           // repeats it; for the report
};

/// The folder of the request, made or taken up again, and checked against what is there.
ComparisonFolder comparison_of(const CompareRequest& request);

/// How the runs share this machine: jobs · threads is at most the number of cores, unless the
/// recipe itself or `jobs` asks for more.
struct MachineShare {
  int64_t jobs = 1, threads = 1;
};
MachineShare share_machine(int64_t jobs, const Plan& plan);

/// Trains all that is not done, showing how far it is, and writes the results; returns whether all
/// runs came to an end (else: stopped by SIGINT or SIGTERM). `summary` gets what
/// docs/comparison-summary.md describes.
bool train_comparison(ComparisonFolder& folder, const CompareRequest& request,
                      const Console& console, Value& summary);

/// Reads what the runs have made so far and writes summary.json, summary.csv, runs.csv, summary.md
/// and report.html. `latencies`: also measure how long a forward pass takes, where that is unknown.
Value write_results(const ComparisonFolder& folder, bool latencies, const MachineShare& share);

/// One shell command a run, for Slurm arrays, GNU parallel and the like: each can be started again
/// after any end, in any order, on any machine that sees the folder.
std::string job_list(const ComparisonFolder& folder);

}  // namespace formwork

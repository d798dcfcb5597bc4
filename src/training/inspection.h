// Measuring inside a model with the probes of src/methods/probe.
#pragma once

#include <string>
#include <vector>

#include "methods/probe/probe.h"
#include "tasks/task.h"

namespace formwork {

/// What to measure, and on how much.
struct InspectionRequest {
  std::vector<std::string> probes;  // "name" or "name:option=value,..."; empty = all there are
  int64_t batches = 1;              // of validation data, as many as there are
  int64_t items = 0;                // a batch
  std::string precision = "float32";
  uint64_t seed = 1;
  std::vector<Tensor> before;  // earlier values of the parameters, or empty
  std::string since;           // when that was
};

/// What one probe found.
struct ProbeResult {
  std::string name, summary;
  Findings findings;
};

/// Runs the probes on validation data, in evaluation mode. The model, its gradients and running
/// statistics, whether it trains and the random generator are afterwards as they were.
std::vector<ProbeResult> inspect(Model& model, Task& task, const InspectionRequest& request);

/// {name: {summary, sentences, figures: {key: {title, columns, rows}}, pictures, series}}.
/// Infinity is "inf", what was not measured null.
Value inspection_json(const std::vector<ProbeResult>& results);

/// Writes <folder>/inspection.html (one page that opens without a network) and inspection.json,
/// making the folder; returns the page's path. `title` and `about` stand above.
std::string write_inspection(const std::vector<ProbeResult>& results, const std::string& folder,
                             const std::string& title, const std::string& about);

/// The findings of one probe as text: sentences, then tables.
std::string inspection_text(const ProbeResult& result);

}  // namespace formwork

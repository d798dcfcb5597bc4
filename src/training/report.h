// report.html: the curves of one run on a page of its own that opens without a network.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/value.h"

namespace formwork {

/// Writes <run_folder>/report.html, atomically, from metrics.jsonl, recipe.toml, machine.json and
/// summary.json as far as they are there, and returns its path. Numbers of a metrics line under
/// keys that the page does not know get a chart of their own; "validation_x" is drawn beside "x".
std::string write_report(const std::string& run_folder);

/// The lines to draw: all of them up to `most`, else for each stretch of lines those with the least
/// and the greatest loss, so that no spike is lost, and those that hold a validation.
std::vector<Value> thin_metrics(const std::vector<Value>& lines, int64_t most);

}  // namespace formwork

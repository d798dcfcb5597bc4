// What came out of a comparison: figures of every variant, curves, tests against the baseline.
#pragma once

#include <string>

#include "lab/comparison_folder.h"

namespace formwork {

/// Everything known of a comparison so far, as docs/comparison-summary.md describes it, read from
/// the run folders. `latency` is what measure_latencies has kept (empty: not measured). `jobs` and
/// `threads` say how the runs shared the machine; 0 = unknown.
Value summarise(const ComparisonFolder& folder, const Value& latency, int64_t jobs,
                int64_t threads);

/// Milliseconds of one forward pass without gradients for each variant, by folder:
/// {batch_1, training_batch}, medians; nulls where the model cannot be built. Kept in latency.json
/// and measured only where that lacks a variant.
void measure_latencies(const ComparisonFolder& folder);

}  // namespace formwork

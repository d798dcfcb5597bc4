// The results of a comparison as text: Markdown, CSV, and a table for the terminal.
#pragma once

#include <string>

#include "core/value.h"

namespace formwork {

/// All from a summary as docs/comparison-summary.md describes it.
/// summary.md: quality, cost and stability of every variant, and how to read them.
std::string summary_markdown(const Value& summary);
/// summary.csv: one line a variant.
std::string summary_csv(const Value& summary);
/// runs.csv: one line a run.
std::string runs_csv(const Value& summary);
/// The main columns, aligned, for a terminal of 80 columns where the variants' names are short.
std::string summary_text(const Value& summary);

/// "812 k", "1.52 M", "3.1 G": a figure with three digits and the power of 1000.
std::string short_figure(double value);

}  // namespace formwork

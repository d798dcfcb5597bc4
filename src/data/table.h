// Numeric tables with a date column (CSV), such as the ETT electricity data.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/problem.h"
#include "data/text.h"

namespace formwork {

/// What an empty cell (or nan, NA, null) means: an error, the value above it, or the column's
/// mean. `previous` takes the first value below where there is none above.
enum class Missing { refuse, previous, mean };

struct TableOptions {
  std::string date_column = "date";  // empty: the table has no dates
  Missing missing = Missing::refuse;
  char separator = ',';
};

/// Rows of numbers.
struct NumberTable {
  std::vector<std::string> columns;  // without the date column
  std::vector<double> values;        // [rows, columns]
  std::vector<int64_t> seconds;      // [rows] since 1970; empty without a date column

  int64_t width() const { return static_cast<int64_t>(columns.size()); }
  int64_t rows() const {
    return columns.empty() ? 0 : static_cast<int64_t>(values.size()) / width();
  }
  double at(int64_t row, int64_t column) const {
    return values[static_cast<size_t>(row * width() + column)];
  }
  /// The index of a column; an unknown name is refused, listing those there are.
  int64_t column(std::string_view name) const;
  /// The most frequent time between rows in seconds, 0 without dates.
  int64_t step_seconds() const;
};

/// Parses a CSV text with a header; `file` names it in errors (file:line:column). Cells that
/// cannot be used go to `problems`.
NumberTable parse_table(std::string_view text, const std::string& file, const TableOptions& options,
                        Problems& problems);

/// Reads a CSV file; the first problem is an error, as is a table without rows.
NumberTable read_table(const std::string& path, const TableOptions& options = {});

struct TableSplit {
  Interval train;
  Interval validation;
  Interval test;
};

/// ETT's split: 12, 4 and 4 months of 30 days; `step_seconds` between rows (3600 for ETTh, 900 for
/// ETTm). Validation and test begin `context` rows earlier, so that their first forecast follows
/// their own part's beginning.
TableSplit split_ett(int64_t rows, int64_t step_seconds, int64_t context);

/// Consecutive fractions of the rows; the rest is the test part. Context as above.
TableSplit split_fractions(int64_t rows, double train, double validation, int64_t context);

/// Mean and population standard deviation (1 where a column is constant) of each column.
struct Scaling {
  std::vector<double> mean;
  std::vector<double> deviation;

  void apply(std::span<double> rows) const;   // [rows, columns], in place
  void revert(std::span<double> rows) const;  // the inverse
};
Scaling fit_scaling(const NumberTable& table, Interval rows);

}  // namespace formwork

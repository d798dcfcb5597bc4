#include "data/table.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "data/calendar.h"
#include "data/delimited.h"
#include "data/file.h"

namespace formwork {
namespace {

constexpr double kAbsent = std::numeric_limits<double>::quiet_NaN();

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

bool is_missing(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return lower.empty() || lower == "nan" || lower == "na" || lower == "n/a" || lower == "null";
}

bool parse_number(std::string_view text, double& out) {
  if (text.starts_with('+')) text.remove_prefix(1);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size() && std::isfinite(out);
}

/// Reads rows into a table; knows which field is the date.
class TableParser {
 public:
  TableParser(const std::string& file, const TableOptions& options, Problems& problems)
      : file_(file), options_(options), problems_(problems) {}

  NumberTable parse(std::string_view text) {
    DelimitedReader reader(text, options_.separator, file_);
    std::vector<Field> fields;
    if (!reader.next(fields)) refuse_at({file_}, "is empty, a header line is needed");
    read_header(fields);
    while (reader.next(fields)) read_row(fields);
    if (options_.missing != Missing::refuse) fill();
    return std::move(table_);
  }

 private:
  void read_header(const std::vector<Field>& fields) {
    width_ = fields.size();
    std::set<std::string> names;
    for (size_t i = 0; i < fields.size(); ++i) {
      const std::string name(trimmed(fields[i].text));
      if (name.empty()) refuse_at(fields[i].place, "a column has no name");
      if (!names.insert(name).second) {
        refuse_at(fields[i].place, "the column name ", shown(name), " occurs twice");
      }
      double number = 0;
      if (parse_number(name, number) || parse_date(name)) {
        refuse_at(fields[i].place, shown(name), " stands where a column's name is needed; ",
                  "the first line must be a header");
      }
      if (name == options_.date_column) {
        date_ = i;
      } else {
        table_.columns.push_back(name);
      }
    }
    const DataPlace header{file_, fields[0].place.line};
    if (!options_.date_column.empty() && date_ == kNoDate) {
      refuse_at(header, "there is no column ", shown(options_.date_column), "; the columns are ",
                column_names());
    }
    if (table_.columns.empty()) refuse_at(header, "there is no numeric column");
  }

  std::string column_names() const {
    std::string names;
    for (const std::string& name : table_.columns) {
      names += (names.empty() ? "" : ", ") + shown(name);
      if (names.size() > 200) return names + ", ...";
    }
    return names;
  }

  void read_row(const std::vector<Field>& fields) {
    if (fields.size() != width_) {
      problems_.add({file_, fields[0].place.line},
                    join_text("has ", fields.size(), " columns, the header has ", width_));
      return;
    }
    size_t column = 0;
    for (size_t i = 0; i < fields.size(); ++i) {
      if (i == date_) {
        read_date(fields[i]);
      } else {
        table_.values.push_back(read_cell(fields[i], table_.columns[column++]));
      }
    }
  }

  void read_date(const Field& field) {
    const auto seconds = parse_date(trimmed(field.text));
    if (!seconds) {
      problems_.add(field.place, join_text(shown(field.text),
                                           " is not a date; "
                                           "YYYY-MM-DD HH:MM:SS is needed"));
    } else if (!table_.seconds.empty() && *seconds <= table_.seconds.back()) {
      problems_.add(field.place,
                    join_text(shown(field.text), " is not later than the row before it"));
    }
    const int64_t before = table_.seconds.empty() ? 0 : table_.seconds.back();
    table_.seconds.push_back(seconds.value_or(before));
  }

  double read_cell(const Field& field, const std::string& name) {
    const std::string_view text = trimmed(field.text);
    double number = 0;
    if (parse_number(text, number)) return number;
    if (!is_missing(text)) {
      problems_.add(field.place,
                    join_text(shown(field.text), " in column ", shown(name), " is not a number"));
    } else if (options_.missing == Missing::refuse) {
      problems_.add(field.place, join_text("the value of column ", shown(name),
                                           " is missing; choose a rule that fills such cells"));
    }
    return kAbsent;
  }

  void fill() {
    const int64_t rows = table_.rows(), width = table_.width();
    for (int64_t c = 0; c < width; ++c) {
      const auto cell = [&](int64_t r) -> double& {
        return table_.values[static_cast<size_t>(r * width + c)];
      };
      double sum = 0, first = kAbsent;
      int64_t present = 0;
      for (int64_t r = 0; r < rows; ++r) {
        if (std::isnan(cell(r))) continue;
        if (present++ == 0) first = cell(r);
        sum += cell(r);
      }
      if (present == 0 && rows > 0) {
        refuse_at({file_}, "the column ", shown(table_.columns[static_cast<size_t>(c)]),
                  " holds no value at all");
      }
      double value = first;
      for (int64_t r = 0; r < rows; ++r) {
        if (options_.missing == Missing::mean) value = sum / static_cast<double>(present);
        if (std::isnan(cell(r))) cell(r) = value;
        value = cell(r);
      }
    }
  }

  static constexpr size_t kNoDate = std::numeric_limits<size_t>::max();
  const std::string& file_;
  const TableOptions& options_;
  Problems& problems_;
  NumberTable table_;
  size_t width_ = 0;
  size_t date_ = kNoDate;
};

TableSplit with_context(int64_t train, int64_t validation, int64_t test, int64_t context) {
  check(context >= 0 && context <= train, "split", "a context of ", context,
        " rows does not fit into a training part of ", train, " rows");
  check(context <= train + validation, "split", "the context is longer than the data before it");
  TableSplit split;
  split.train = {0, train};
  split.validation = {train - context, train + validation};
  split.test = {train + validation - context, train + validation + test};
  return split;
}

}  // namespace

int64_t NumberTable::column(std::string_view name) const {
  const auto at = std::find(columns.begin(), columns.end(), name);
  if (at != columns.end()) return at - columns.begin();
  std::string names;
  for (const std::string& other : columns) names += (names.empty() ? "" : ", ") + other;
  refuse("table", "there is no column \"", name, "\"; the columns are ", names);
}

int64_t NumberTable::step_seconds() const {
  std::map<int64_t, int64_t> counts;
  for (size_t i = 1; i < seconds.size(); ++i) ++counts[seconds[i] - seconds[i - 1]];
  int64_t best = 0, most = 0;
  for (const auto& [step, count] : counts) {
    if (count > most) best = step, most = count;
  }
  return best;
}

NumberTable parse_table(std::string_view text, const std::string& file, const TableOptions& options,
                        Problems& problems) {
  return TableParser(file, options, problems).parse(text);
}

NumberTable read_table(const std::string& path, const TableOptions& options) {
  Problems strict;
  NumberTable table = parse_table(read_filled_file(path), path, options, strict);
  check(table.rows() > 0, path, "has a header but no rows");
  return table;
}

TableSplit split_ett(int64_t rows, int64_t step_seconds, int64_t context) {
  check(step_seconds > 0, "split", "the rows are ", step_seconds,
        " seconds apart, a positive number is needed");
  const int64_t month = 30 * 24 * int64_t{3600} / step_seconds;
  check(month > 0 && rows >= 20 * month, "split", "20 months of 30 days need ", 20 * month,
        " rows, but there are ", rows, "; split by fractions instead");
  return with_context(12 * month, 4 * month, 4 * month, context);
}

TableSplit split_fractions(int64_t rows, double train, double validation, int64_t context) {
  check(train > 0 && validation >= 0 && train + validation <= 1, "split", "the fractions ", train,
        " and ", validation, " are not positive with a sum of at most 1");
  const auto part = [&](double fraction) {
    return static_cast<int64_t>(std::llround(static_cast<double>(rows) * fraction));
  };
  const int64_t first = part(train);
  const int64_t second = std::min(part(train + validation), rows) - first;
  check(first > 0, "split", "no row of ", rows, " is left for training");
  return with_context(first, second, rows - first - second, context);
}

void Scaling::apply(std::span<double> rows) const {
  for (size_t i = 0; i < rows.size(); ++i) {
    const size_t column = i % mean.size();
    rows[i] = (rows[i] - mean[column]) / deviation[column];
  }
}

void Scaling::revert(std::span<double> rows) const {
  for (size_t i = 0; i < rows.size(); ++i) {
    const size_t column = i % mean.size();
    rows[i] = rows[i] * deviation[column] + mean[column];
  }
}

Scaling fit_scaling(const NumberTable& table, Interval rows) {
  check(rows.begin >= 0 && rows.begin < rows.end && rows.end <= table.rows(), "scaling", "rows ",
        rows.begin, " to ", rows.end, " are not a part of a table of ", table.rows());
  Scaling scaling;
  for (int64_t c = 0; c < table.width(); ++c) {
    double sum = 0, squares = 0;
    for (int64_t r = rows.begin; r < rows.end; ++r) sum += table.at(r, c);
    const double mean = sum / static_cast<double>(rows.size());
    for (int64_t r = rows.begin; r < rows.end; ++r) {
      const double apart = table.at(r, c) - mean;
      squares += apart * apart;
    }
    const double deviation = std::sqrt(squares / static_cast<double>(rows.size()));
    scaling.mean.push_back(mean);
    scaling.deviation.push_back(deviation > 0 ? deviation : 1.0);
  }
  return scaling;
}

}  // namespace formwork

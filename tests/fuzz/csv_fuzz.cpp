// fuzz-sources: src/core/random.cpp src/data/calendar.cpp src/data/delimited.cpp
// fuzz-sources: src/data/file.cpp src/data/problem.cpp src/data/table.cpp src/data/text.cpp
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "data/calendar.h"
#include "data/table.h"

using namespace formwork;

// Any text is read, or refused with an Error; a table that is filled has no holes.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  TableOptions options;
  options.missing = static_cast<Missing>(data[0] % 3);
  if (data[0] & 4) options.date_column.clear();
  try {
    Problems strict;
    const NumberTable table = parse_table(text, "input", options, strict);
    for (const double value : table.values) {
      if (!std::isfinite(value)) __builtin_trap();
    }
    for (const int64_t seconds : table.seconds) calendar_features(seconds, true);
    if (!table.seconds.empty() &&
        table.seconds.size() * table.columns.size() != table.values.size())
      __builtin_trap();
    if (table.rows() > 0) fit_scaling(table, {0, table.rows()});
  } catch (const Error&) {
  }
  try {
    std::vector<Finding> findings;
    Problems collected(&findings);
    parse_table(text, "input", options, collected);
  } catch (const Error&) {
  }
  return 0;
}

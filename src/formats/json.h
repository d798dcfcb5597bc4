// JSON text from and to the core's values.
#pragma once

#include <string>
#include <string_view>

#include "core/value.h"

namespace formwork {

/// JSON text of a value: on one line, or over several with `indent` > 0 spaces a level. Floats are
/// the shortest text that reads back to the same bits; JSON has no NaN or infinity: they become
/// null. Text that is not UTF-8 gets U+FFFD where it is broken.
std::string write_json(const Value& value, int indent = 0);

/// Parses JSON text; an error (Fault::request) starts with `where` and names the byte.
Value parse_json(std::string_view text, const std::string& where);

}  // namespace formwork

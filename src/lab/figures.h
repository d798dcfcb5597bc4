// Numbers out of JSON values, where they may be missing.
#pragma once

#include "core/figure_text.h"

#include <optional>
#include <string>

#include "core/value.h"

namespace formwork {

/// The number under `key` of a table; nothing where it is missing or null (NaN in JSON).
std::optional<double> number_at(const Value& table, const std::string& key);
/// The text under `key`, or "".
std::string text_at(const Value& table, const std::string& key);
/// Whether the value under `key` is true.
bool flag_at(const Value& table, const std::string& key);
/// A number, or null.
Value value_of(const std::optional<double>& figure);

/// The JSON file at `path`; an empty table where there is none.
Value read_json_if_there(const std::string& path);

}  // namespace formwork

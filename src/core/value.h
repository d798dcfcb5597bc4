// A configuration value with the place it was written at: what TOML and `--set` become, and what
// options are read from and written back to.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace formwork {

/// Where a value was written: a file (or "--set") with 1-based line and column; line 0 = unknown.
struct Place {
  std::string file;
  int64_t line = 0;
  int64_t column = 0;
  /// "recipe.toml:3:7", "--set", or "" when nothing is known.
  std::string text() const;
};

class Value;
using List = std::vector<Value>;
/// Keys in the order they were written.
using Table = std::vector<std::pair<std::string, Value>>;

/// null, bool, integer, float, string, list or table.
class Value {
 public:
  Value() = default;
  Value(bool value) : data_(value) {}                      // NOLINT(google-explicit-constructor)
  Value(int64_t value) : data_(value) {}                   // NOLINT(google-explicit-constructor)
  Value(double value) : data_(value) {}                    // NOLINT(google-explicit-constructor)
  Value(std::string value) : data_(std::move(value)) {}    // NOLINT(google-explicit-constructor)
  Value(const char* value) : data_(std::string(value)) {}  // NOLINT(google-explicit-constructor)
  Value(List value) : data_(std::move(value)) {}           // NOLINT(google-explicit-constructor)
  Value(Table value) : data_(std::move(value)) {}          // NOLINT(google-explicit-constructor)

  template <class T>
  const T* get() const {
    return std::get_if<T>(&data_);
  }
  template <class T>
  T* get() {
    return std::get_if<T>(&data_);
  }
  bool is_null() const { return std::holds_alternative<std::monostate>(data_); }
  /// "an integer", "a table", ... for messages.
  std::string kind() const;
  /// The value as it would be written in TOML, on one line.
  std::string text() const;

  /// The entry of a table, or nullptr.
  const Value* find(const std::string& key) const;
  Value* find(const std::string& key);
  /// The entry of a table, made when missing; turns a null value into a table.
  Value& operator[](const std::string& key);

  Place place;

 private:
  std::variant<std::monostate, bool, int64_t, double, std::string, List, Table> data_;
};

/// Parses TOML text; errors name `file`:line:column.
Value parse_toml(const std::string& text, const std::string& file);
/// Reads and parses a TOML file.
Value read_toml(const std::string& path);
/// TOML text of a table: plain keys first, then [tables] and [[lists of tables]].
std::string write_toml(const Value& table);
/// Applies "a.b.0.c=value" to a table; the right side is TOML, or else taken as a string.
void set_by_path(Value& root, const std::string& assignment, const std::string& origin = "--set");
/// Sets `value` at a dotted path such as "model.norm.kind" or "model.layer.0.mixer". Setting
/// another `kind` drops the options that belonged to the old one.
void set_by_path(Value& root, const std::string& path, Value value);

}  // namespace formwork

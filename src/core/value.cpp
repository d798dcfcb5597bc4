#include "core/value.h"

#include <charconv>
#include <cmath>

#include "core/error.h"

namespace formwork {
namespace {

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\r':
        out += "\\r";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
          char code[8];
          std::snprintf(code, sizeof code, "\\u%04x", static_cast<unsigned char>(c));
          out += code;
        } else {
          out += c;
        }
    }
  }
  return out + "\"";
}

std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value);
  std::string text(buffer, end.ptr);
  // TOML distinguishes 1.0 from 1 and wants digits after the point of an exponent form.
  if (text.find_first_of(".en") == std::string::npos) text += ".0";
  return text;
}

bool bare(const std::string& key) {
  if (key.empty()) return false;
  for (const char c : key)
    if (!isalnum(static_cast<unsigned char>(c)) && c != '_' && c != '-') return false;
  return true;
}

std::string key_text(const std::string& key) {
  return bare(key) ? key : quoted(key);
}

bool is_table_list(const Value& value) {
  const List* list = value.get<List>();
  if (!list || list->empty()) return false;
  for (const Value& item : *list)
    if (!item.get<Table>()) return false;
  return true;
}

void write_table(const Table& table, const std::string& path, std::string& out) {
  for (const auto& [key, value] : table)
    if (!value.get<Table>() && !is_table_list(value) && !value.is_null())
      out += key_text(key) + " = " + value.text() + "\n";
  for (const auto& [key, value] : table) {
    const std::string name = path.empty() ? key_text(key) : path + "." + key_text(key);
    if (const Table* inner = value.get<Table>()) {
      out += "\n[" + name + "]\n";
      write_table(*inner, name, out);
    } else if (is_table_list(value)) {
      for (const Value& item : *value.get<List>()) {
        out += "\n[[" + name + "]]\n";
        write_table(*item.get<Table>(), name, out);
      }
    }
  }
}

std::vector<std::string> split_path(const std::string& path, const std::string& origin) {
  std::vector<std::string> parts;
  std::string part;
  for (const char c : path + ".") {
    if (c != '.') {
      part += c;
      continue;
    }
    check(!part.empty(), origin, "'", path, "' is not a key path; write it like model.norm.kind");
    parts.push_back(std::move(part));
    part.clear();
  }
  return parts;
}

Value& descend(Value& at, const std::string& part, const std::string& path) {
  if (List* list = at.get<List>()) {
    size_t index = 0;
    const auto end = std::from_chars(part.data(), part.data() + part.size(), index);
    check(end.ec == std::errc() && end.ptr == part.data() + part.size() && index < list->size(),
          path, "'", part, "' is not an entry of the list, which has ", list->size(),
          " entries from 0");
    return (*list)[index];
  }
  // `mixer = "softmax"` is short for a table, so a key inside it is meant of that table.
  if (const std::string* kind = at.get<std::string>()) {
    Table table{{"kind", Value(*kind)}};
    table.front().second.place = at.place;
    at = Value(std::move(table));
  }
  check(at.is_null() || at.get<Table>(), path, "'", part, "' lies inside ", at.kind(),
        ", but only a table has keys");
  return at[part];
}

}  // namespace

std::string Place::text() const {
  if (line == 0) return file;
  return join_text(file, ":", line, ":", column);
}

std::string Value::kind() const {
  static const char* const kNames[] = {"nothing",  "a boolean", "an integer", "a float",
                                       "a string", "a list",    "a table"};
  return kNames[data_.index()];
}

std::string Value::text() const {
  if (const bool* v = get<bool>()) return *v ? "true" : "false";
  if (const int64_t* v = get<int64_t>()) return std::to_string(*v);
  if (const double* v = get<double>()) return float_text(*v);
  if (const std::string* v = get<std::string>()) return quoted(*v);
  std::string out;
  if (const List* v = get<List>()) {
    for (const Value& item : *v) out += (out.empty() ? "" : ", ") + item.text();
    return "[" + out + "]";
  }
  if (const Table* v = get<Table>()) {
    for (const auto& [key, item] : *v)
      out += (out.empty() ? "" : ", ") + key_text(key) + " = " + item.text();
    return "{ " + out + " }";
  }
  return "nothing";
}

const Value* Value::find(const std::string& key) const {
  if (const Table* table = get<Table>())
    for (const auto& [name, value] : *table)
      if (name == key) return &value;
  return nullptr;
}

Value* Value::find(const std::string& key) {
  return const_cast<Value*>(std::as_const(*this).find(key));
}

Value& Value::operator[](const std::string& key) {
  if (is_null()) data_ = Table{};
  if (Value* found = find(key)) return *found;
  Table* table = get<Table>();
  if (!table) fail("configuration", "key '", key, "' set inside ", kind());
  return table->emplace_back(key, Value()).second;
}

std::string write_toml(const Value& table) {
  std::string out;
  if (const Table* entries = table.get<Table>()) write_table(*entries, "", out);
  return out;
}

void set_by_path(Value& root, const std::string& path, Value value) {
  Value* at = &root;
  Value* parent = nullptr;
  const std::vector<std::string> parts = split_path(path, path);
  for (const std::string& part : parts) {
    parent = at;
    at = &descend(*at, part, path);
  }
  // Another kind has other options: those of the old one go.
  const bool other_kind = parts.back() == "kind" && !at->is_null() && at->text() != value.text();
  if (other_kind && parent->get<Table>()) {
    const Place place = parent->place;
    *parent = Value(Table{{"kind", std::move(value)}});
    parent->place = place;
    return;
  }
  *at = std::move(value);
}

void set_by_path(Value& root, const std::string& assignment, const std::string& origin) {
  const size_t equals = assignment.find('=');
  check(equals != std::string::npos && equals > 0, origin, "'", assignment,
        "' has no value; write KEY=VALUE, for example model.norm.kind=rms_norm");
  const auto trimmed = [](std::string text) {
    const size_t first = text.find_first_not_of(" \t");
    if (first == std::string::npos) return std::string();
    return text.substr(first, text.find_last_not_of(" \t") - first + 1);
  };
  const std::string right = trimmed(assignment.substr(equals + 1));
  Value value;
  try {
    value = *parse_toml("value = " + right, origin).find("value");
  } catch (const Error&) {
    value = Value(right);  // a bare word is a string: --set model.mixer.kind=linear
  }
  value.place = Place{origin, 0, 0};
  set_by_path(root, trimmed(assignment.substr(0, equals)), std::move(value));
}

}  // namespace formwork

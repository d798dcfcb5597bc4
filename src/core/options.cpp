#include "core/options.h"

#include <algorithm>
#include <cmath>

namespace formwork {
namespace {

/// A bound as a person writes it: 1, not 1.0.
std::string number_text(double value) {
  if (value == std::floor(value) && std::fabs(value) < 1e15)
    return Value(static_cast<int64_t>(value)).text();
  return Value(value).text();
}

template <class T>
struct Kind;
template <>
struct Kind<bool> {
  static constexpr const char* name = "boolean";
};
template <>
struct Kind<int64_t> {
  static constexpr const char* name = "integer";
};
template <>
struct Kind<double> {
  static constexpr const char* name = "float";
};
template <>
struct Kind<std::string> {
  static constexpr const char* name = "string";
};

template <class T>
std::string type_name(const T*) {
  return Kind<T>::name;
}
template <class T>
std::string type_name(const std::vector<T>*) {
  return std::string("list of ") + Kind<T>::name;
}
template <class T>
std::string type_name(const std::optional<T>*) {
  return std::string("optional ") + Kind<T>::name;
}

template <class T>
bool convert(const Value& value, T& out) {
  if (const T* same = value.get<T>()) {
    out = *same;
    return true;
  }
  return false;
}
bool convert(const Value& value, double& out) {
  if (const double* real = value.get<double>()) return out = *real, true;
  if (const int64_t* integer = value.get<int64_t>())
    return out = static_cast<double>(*integer), true;
  return false;
}
bool convert(const Value& value, int64_t& out) {
  if (const int64_t* integer = value.get<int64_t>()) return out = *integer, true;
  // 1e6 steps are an integer to everybody but TOML.
  const double* real = value.get<double>();
  if (!real || *real != std::floor(*real) || std::fabs(*real) > 9e15) return false;
  return out = static_cast<int64_t>(*real), true;
}
template <class T>
bool convert(const Value& value, std::vector<T>& out) {
  const List* list = value.get<List>();
  if (!list) return false;
  std::vector<T> items(list->size());
  for (size_t i = 0; i < list->size(); ++i) {
    T item{};
    if (!convert((*list)[i], item)) return false;
    items[i] = item;
  }
  out = std::move(items);
  return true;
}
template <class T>
bool convert(const Value& value, std::optional<T>& out) {
  T inner{};
  if (!convert(value, inner)) return false;
  out = std::move(inner);
  return true;
}

template <class T>
Value to_value(const T& value) {
  return Value(value);
}
template <class T>
Value to_value(const std::vector<T>& value) {
  List list;
  for (const T& item : value) list.push_back(Value(T(item)));
  return Value(std::move(list));
}
template <class T>
Value to_value(const std::optional<T>& value) {
  return value ? Value(*value) : Value();
}

template <class T>
Range<T> numeric(std::function<bool(double)> contains, std::string text) {
  return {[contains](const T& value) { return contains(static_cast<double>(value)); },
          std::move(text)};
}
template <class T>
Range<T> make_range(const AtLeast& b) {
  return numeric<T>([b](double v) { return v >= b.low; }, "at least " + number_text(b.low));
}
template <class T>
Range<T> make_range(const Above& b) {
  return numeric<T>([b](double v) { return v > b.low; }, "above " + number_text(b.low));
}
template <class T>
Range<T> make_range(const Between& b) {
  return numeric<T>([b](double v) { return v >= b.low && v <= b.high; },
                    "between " + number_text(b.low) + " and " + number_text(b.high));
}
template <class T>
Range<T> make_range(const BelowOne&) {
  return numeric<T>([](double v) { return v >= 0 && v < 1; }, "at least 0 and below 1");
}
template <class T>
Range<T> make_range(const OneOf& b) {
  std::string text;
  for (const std::string& name : b.names) text += (text.empty() ? "one of " : ", ") + name;
  return {[b](const T& value) { return std::count(b.names.begin(), b.names.end(), value) > 0; },
          std::move(text)};
}

/// A bound on an optional or a list holds for what is inside.
template <class T, class Bound>
struct RangeOf {
  static Range<T> make(const Bound& b) { return make_range<T>(b); }
};
template <class T, class Bound>
struct RangeOf<std::optional<T>, Bound> {
  static Range<std::optional<T>> make(const Bound& b) {
    Range<T> inner = make_range<T>(b);
    return {[inner](const std::optional<T>& v) { return !v || inner.contains(*v); }, inner.text};
  }
};
template <class T, class Bound>
struct RangeOf<std::vector<T>, Bound> {
  static Range<std::vector<T>> make(const Bound& b) {
    Range<T> inner = make_range<T>(b);
    return {[inner](const std::vector<T>& v) {
              return std::all_of(v.begin(), v.end(),
                                 [&](const T& item) { return inner.contains(item); });
            },
            "each " + inner.text};
  }
};

std::string child(const std::string& path, const std::string& key) {
  return path.empty() ? key : path + "." + key;
}

}  // namespace

std::string where_of(const Value& value, const std::string& path) {
  const std::string place = value.place.text();
  return place.empty() ? path : place + ": " + path;
}

template <class T>
void OptionSet::add_ranged(const std::string& key, T& value, const std::string& help,
                           Range<T> range) {
  const std::string type = type_name(&value);
  const Value start = to_value(value);
  Entry entry;
  entry.info = {key, type, start.is_null() ? "" : start.text(), range.text, help};
  entry.write = [&value] { return to_value(value); };
  entry.read = [&value, type, range, key](const Value& given, const std::string& path) {
    const std::string where = where_of(given, child(path, key));
    T parsed{};
    check(convert(given, parsed), where, "found ", given.kind(), " (", given.text(),
          "); valid: ", type, range.text.empty() ? "" : ", " + range.text);
    check(!range.contains || range.contains(parsed), where, "found ", given.text(),
          "; valid: ", range.text);
    value = std::move(parsed);
  };
  entries_.push_back(std::move(entry));
}

template <class T, class Bound>
void OptionSet::add(const std::string& key, T& value, const std::string& help, const Bound& bound) {
  add_ranged(key, value, help, RangeOf<T, Bound>::make(bound));
}
template <class T>
void OptionSet::add(const std::string& key, T& value, const std::string& help) {
  add_ranged(key, value, help, Range<T>{});
}

#define FORMWORK_PLAIN(T) \
  template void OptionSet::add<T>(const std::string&, T&, const std::string&);
#define FORMWORK_BOUND(T, B) \
  template void OptionSet::add<T, B>(const std::string&, T&, const std::string&, const B&);
#define FORMWORK_NUMBERS(T)  \
  FORMWORK_PLAIN(T)          \
  FORMWORK_BOUND(T, AtLeast) \
  FORMWORK_BOUND(T, Above) FORMWORK_BOUND(T, Between) FORMWORK_BOUND(T, BelowOne)
FORMWORK_PLAIN(bool)
FORMWORK_PLAIN(std::optional<bool>)
FORMWORK_NUMBERS(int64_t)
FORMWORK_NUMBERS(double)
FORMWORK_NUMBERS(std::optional<int64_t>)
FORMWORK_NUMBERS(std::optional<double>)
FORMWORK_NUMBERS(std::vector<int64_t>)
FORMWORK_NUMBERS(std::vector<double>)
FORMWORK_PLAIN(std::string)
FORMWORK_BOUND(std::string, OneOf)
FORMWORK_PLAIN(std::optional<std::string>)
FORMWORK_BOUND(std::optional<std::string>, OneOf)
FORMWORK_PLAIN(std::vector<std::string>)
FORMWORK_BOUND(std::vector<std::string>, OneOf)
#undef FORMWORK_NUMBERS
#undef FORMWORK_BOUND
#undef FORMWORK_PLAIN

void read_choice(AnyChoice& choice, const Value& given, const std::string& path) {
  // `norm = "rms_norm"` is short for `norm = { kind = "rms_norm" }`.
  if (const std::string* kind = given.get<std::string>()) {
    if (*kind != choice.kind()) choice.select(*kind, where_of(given, path));
    return;
  }
  const Table* table = given.get<Table>();
  check(table != nullptr, where_of(given, path), "found ", given.kind(),
        "; valid: a table with kind = \"...\", or the kind alone");
  Table rest;
  for (const auto& [key, value] : *table) {
    if (key != "kind") {
      rest.emplace_back(key, value);
      continue;
    }
    const std::string* kind = value.get<std::string>();
    check(kind != nullptr, where_of(value, path + ".kind"), "found ", value.kind(),
          "; valid: a string");
    if (*kind != choice.kind()) choice.select(*kind, where_of(value, path + ".kind"));
  }
  OptionSet inner;
  choice.options().describe(inner);
  Value body{std::move(rest)};
  body.place = given.place;
  inner.read(body, path);
}

Value write_choice(AnyChoice& choice) {
  OptionSet inner;
  choice.options().describe(inner);
  Value written = inner.write();
  Table table{{"kind", Value(choice.kind())}};
  if (Table* rest = written.get<Table>())
    for (auto& item : *rest) table.push_back(std::move(item));
  return Value(std::move(table));
}

void OptionSet::add_choice(const std::string& key, AnyChoice& choice, const std::string& help) {
  Entry entry;
  entry.info = {key, "table: a method of axis " + choice.axis(), choice.kind(), "", help};
  entry.write = [&choice] { return write_choice(choice); };
  entry.read = [&choice, key](const Value& given, const std::string& path) {
    read_choice(choice, given, child(path, key));
  };
  entries_.push_back(std::move(entry));
}

void OptionSet::add_group(const std::string& key, const std::string& help,
                          std::function<void(OptionSet&)> describe) {
  Entry entry;
  entry.info = {key, "table", "", "", help};
  entry.write = [describe] {
    OptionSet inner;
    describe(inner);
    return inner.write();
  };
  entry.read = [describe, key](const Value& given, const std::string& path) {
    check(given.get<Table>() != nullptr, where_of(given, child(path, key)), "found ", given.kind(),
          "; valid: a table");
    OptionSet inner;
    describe(inner);
    inner.read(given, child(path, key));
  };
  entries_.push_back(std::move(entry));
}

void OptionSet::add_list(const std::string& key, const std::string& help,
                         std::function<void(OptionSet&)> append,
                         std::function<std::vector<std::function<void(OptionSet&)>>()> elements,
                         std::function<void()> clear) {
  Entry entry;
  entry.info = {key, "list of tables", "", "", help};
  entry.write = [elements] {
    List list;
    for (const auto& describe : elements()) {
      OptionSet inner;
      describe(inner);
      list.push_back(inner.write());
    }
    return list.empty() ? Value() : Value(std::move(list));
  };
  entry.read = [append, clear, key](const Value& given, const std::string& path) {
    const List* list = given.get<List>();
    check(list != nullptr, where_of(given, child(path, key)), "found ", given.kind(),
          "; valid: a list of tables, [[", child(path, key), "]]");
    clear();
    for (size_t i = 0; i < list->size(); ++i) {
      const std::string name = join_text(child(path, key), ".", i);
      check((*list)[i].get<Table>() != nullptr, where_of((*list)[i], name), "found ",
            (*list)[i].kind(), "; valid: a table");
      OptionSet inner;
      append(inner);
      inner.read((*list)[i], name);
    }
  };
  entries_.push_back(std::move(entry));
}

void OptionSet::add_raw(const std::string& key, Value& value, const std::string& help) {
  Entry entry;
  entry.info = {key, "any", "", "", help};
  entry.write = [&value] { return value; };
  entry.read = [&value](const Value& given, const std::string&) { value = given; };
  entries_.push_back(std::move(entry));
}

void OptionSet::require(const std::string& key, std::function<bool()> holds,
                        const std::string& sentence) {
  rules_.push_back({key, sentence, std::move(holds)});
}

void OptionSet::add_open(std::function<void(const Value&, const std::string& path)> read) {
  open_ = std::move(read);
}

void OptionSet::read(const Value& table, const std::string& path) {
  if (open_) return open_(table, path);
  const Table* entries = table.get<Table>();
  check(entries != nullptr || table.is_null(), where_of(table, path), "found ", table.kind(),
        "; valid: a table");
  if (entries) {
    for (const auto& [key, value] : *entries) {
      const auto entry = std::find_if(entries_.begin(), entries_.end(),
                                      [&key = key](const Entry& e) { return e.info.key == key; });
      if (entry == entries_.end()) {
        std::vector<std::string> valid;
        for (const Entry& e : entries_) valid.push_back(e.info.key);
        refuse(where_of(value, child(path, key)), unknown_name("key", key, valid));
      }
      entry->read(value, path);
    }
  }
  for (const Rule& rule : rules_) {
    if (rule.holds()) continue;
    const Value* culprit = table.find(rule.key);
    refuse(where_of(culprit ? *culprit : table, child(path, rule.key)), rule.sentence);
  }
}

Value OptionSet::write() const {
  if (!written_.is_null()) return written_;
  Table table;
  for (const Entry& entry : entries_) {
    Value value = entry.write();
    if (!value.is_null()) table.emplace_back(entry.info.key, std::move(value));
  }
  return Value(std::move(table));
}

std::vector<OptionInfo> OptionSet::document() const {
  std::vector<OptionInfo> all;
  for (const Entry& entry : entries_) all.push_back(entry.info);
  return all;
}

std::string nearest(const std::string& word, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, word.size() / 2) + 1;
  for (const std::string& candidate : candidates) {
    std::vector<size_t> row(candidate.size() + 1);
    for (size_t j = 0; j < row.size(); ++j) row[j] = j;
    for (size_t i = 1; i <= word.size(); ++i) {
      size_t diagonal = row[0];
      row[0] = i;
      for (size_t j = 1; j < row.size(); ++j) {
        const size_t above = row[j];
        row[j] =
            std::min({row[j] + 1, row[j - 1] + 1, diagonal + (word[i - 1] != candidate[j - 1])});
        diagonal = above;
      }
    }
    if (row.back() < best_distance) {
      best_distance = row.back();
      best = candidate;
    }
  }
  return best;
}

std::string unknown_name(const std::string& what, const std::string& word,
                         const std::vector<std::string>& valid) {
  std::string out = "unknown " + what + " '" + word + "'";
  const std::string near = nearest(word, valid);
  if (!near.empty()) out += "; did you mean '" + near + "'?";
  std::string list;
  for (const std::string& name : valid) list += (list.empty() ? "" : ", ") + name;
  return out + (near.empty() ? "; valid: " : " Valid: ") + (list.empty() ? "none" : list);
}

}  // namespace formwork

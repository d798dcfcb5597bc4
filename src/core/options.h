// Options described once: parsing, defaults, ranges, documentation and the resolved recipe all come
// from one `describe`.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/value.h"

namespace formwork {

class OptionSet;

/// What a value must satisfy, and how to say so.
template <class T>
struct Range {
  std::function<bool(const T&)> contains;
  std::string text;
};

// The type of a bound is taken from the option, so that at_least(1) serves integers and floats.
struct AtLeast {
  double low;
};
struct Above {
  double low;
};
struct Between {
  double low, high;
};
struct BelowOne {};
struct OneOf {
  std::vector<std::string> names;
};
inline AtLeast at_least(double low) {
  return {low};
}
inline Above above(double low) {
  return {low};
}
/// Both ends included.
inline Between between(double low, double high) {
  return {low, high};
}
/// 0 <= value < 1, as rates and betas are.
inline BelowOne fraction() {
  return {};
}
inline OneOf one_of(std::vector<std::string> names) {
  return {std::move(names)};
}

/// A method's options behind one face: describe and copy.
class Options {
 public:
  virtual ~Options() = default;
  virtual void describe(OptionSet& set) = 0;
  virtual std::unique_ptr<Options> clone() const = 0;
};

/// One choice on an axis as a recipe writes it: `kind` and the options of that kind.
/// The typed form is Choice<Axis> in core/registry.h.
class AnyChoice {
 public:
  virtual ~AnyChoice() = default;
  virtual std::string axis() const = 0;
  virtual const std::string& kind() const = 0;
  /// Selects another kind with its default options; refuses unknown names with a suggestion.
  virtual void select(const std::string& kind, const std::string& where) = 0;
  virtual Options& options() = 0;
  virtual std::vector<std::string> kinds() const = 0;
};

/// One described option, for documentation.
struct OptionInfo {
  std::string key, type, default_text, range, help;
};

/// Collects descriptions and then reads a table, writes a table or documents.
class OptionSet {
 public:
  /// T: bool, int64_t, double, std::string, std::vector of these, or std::optional of the first
  /// four.
  template <class T, class Bound>
  void add(const std::string& key, T& value, const std::string& help, const Bound& bound);
  template <class T>
  void add(const std::string& key, T& value, const std::string& help);
  /// A sub-table `[key]` with `kind` and the options of that kind.
  void add_choice(const std::string& key, AnyChoice& choice, const std::string& help);
  /// A sub-table `[key]` described by `describe`.
  void add_group(const std::string& key, const std::string& help,
                 std::function<void(OptionSet&)> describe);
  /// A list of tables `[[key]]`; `append` makes a new element and describes it; `describe_all`
  /// describes the elements that are there (for writing).
  void add_list(const std::string& key, const std::string& help,
                std::function<void(OptionSet&)> append,
                std::function<std::vector<std::function<void(OptionSet&)>>()> elements,
                std::function<void()> clear);
  /// A value kept as written, for parts read elsewhere.
  void add_raw(const std::string& key, Value& value, const std::string& help);
  /// Reads the whole table by itself instead of key by key; for elements of a list.
  void add_open(std::function<void(const Value&, const std::string& path)> read);
  /// Writes this table's entries, for the elements that add_open reads.
  void add_written(Value table) { written_ = std::move(table); }
  /// A rule over several keys, checked after reading: `key` names the culprit.
  void require(const std::string& key, std::function<bool()> holds, const std::string& sentence);

  /// Reads a table; `path` is the dotted name of the table in messages ("model.mixer").
  void read(const Value& table, const std::string& path);
  /// Every option with its present value.
  Value write() const;
  std::vector<OptionInfo> document() const;

 private:
  struct Entry {
    OptionInfo info;
    std::function<void(const Value&, const std::string& path)> read;
    std::function<Value()> write;
  };
  struct Rule {
    std::string key, sentence;
    std::function<bool()> holds;
  };
  template <class T>
  void add_ranged(const std::string& key, T& value, const std::string& help, Range<T> range);
  std::vector<Entry> entries_;
  std::vector<Rule> rules_;
  std::function<void(const Value&, const std::string& path)> open_;
  Value written_;
};

/// Reads `"kind"` or `{ kind = "...", options... }` into a choice; options not named keep their
/// present value unless the kind changes.
void read_choice(AnyChoice& choice, const Value& given, const std::string& path);
/// A table with the kind and every option.
Value write_choice(AnyChoice& choice);

/// The name of `candidates` nearest to `word` by edit distance, or "" when nothing is near.
std::string nearest(const std::string& word, const std::vector<std::string>& candidates);
/// "'x' is unknown; did you mean 'y'? Valid: ..." — the one way unknown names are answered.
std::string unknown_name(const std::string& what, const std::string& word,
                         const std::vector<std::string>& valid);
/// "file:line:col: model.mixer.window" or just the path when the place is unknown.
std::string where_of(const Value& value, const std::string& path);

}  // namespace formwork

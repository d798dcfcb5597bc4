// Where a data file is wrong, and what to do about it: stop at the first problem, or collect them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/error.h"

namespace formwork {

/// A place in a file. Lines and columns count from 1 (0: not known), columns in bytes of the line;
/// bytes count from 0 (-1: not known).
struct DataPlace {
  std::string file;
  int64_t line = 0;
  int64_t column = 0;
  int64_t byte = -1;

  /// "file:line:column", "file:line", "file: byte 17" or "file".
  std::string text() const;
};

enum class Severity { summary, problem };

/// Something that `data check` says about a file.
struct Finding {
  Severity severity = Severity::problem;
  DataPlace place;
  std::string what;
};

/// An error (Fault::request) in a data file that knows its place.
class DataError : public Error {
 public:
  DataError(const DataPlace& place, const std::string& what)
      : Error(Fault::request, place.text() + ": " + what),
        finding_{Severity::problem, place, what} {}
  const Finding& finding() const { return finding_; }

 private:
  Finding finding_;
};

template <class... Parts>
[[noreturn]] void refuse_at(const DataPlace& place, const Parts&... parts) {
  throw DataError(place, join_text(parts...));
}

/// What a reader does with a row it cannot use: throws (the default), or notes it and goes on.
class Problems {
 public:
  Problems() = default;
  /// Collects into `findings`, which must outlive this; beyond `most` they are only counted.
  explicit Problems(std::vector<Finding>* findings, size_t most = 20)
      : findings_(findings), most_(most) {}

  void add(const DataPlace& place, const std::string& what);
  size_t count() const { return count_; }
  /// Adds "and N more" where some were only counted.
  void finish(const std::string& file);

 private:
  std::vector<Finding>* findings_ = nullptr;
  size_t most_ = 0;
  size_t count_ = 0;
};

/// Any bytes as printable text in quotes, cut to about 40 characters, for messages.
std::string shown(std::string_view text);

}  // namespace formwork

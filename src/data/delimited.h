// Rows of comma or tab separated files, with their places.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/problem.h"

namespace formwork {

struct Field {
  std::string text;  // without its quotes
  DataPlace place;   // of its first byte
};

/// Reads CSV or TSV records (RFC 4180: a field may be quoted, a quote inside is doubled, a quoted
/// field may hold separators and line ends). Lines end in LF, CRLF or CR; empty lines and a UTF-8
/// byte order mark are skipped.
class DelimitedReader {
 public:
  /// `text` must outlive the reader; `file` names it in places.
  DelimitedReader(std::string_view text, char separator, std::string file);

  /// The next record, false at the end. A quote that is never closed, or text after a closing
  /// quote, throws a DataError.
  bool next(std::vector<Field>& fields);

 private:
  void read_field(Field& field);
  void read_quoted(Field& field);
  bool at_line_end() const;
  void skip_line_end();
  DataPlace here() const;

  std::string_view text_;
  char separator_;
  std::string file_;
  size_t position_ = 0;
  size_t line_start_ = 0;
  int64_t line_ = 1;
};

}  // namespace formwork

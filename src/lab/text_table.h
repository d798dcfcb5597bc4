// Rows and columns of short texts, aligned.
#pragma once

#include <string>
#include <vector>

namespace formwork {

/// The first column stands left, the others right.
class TextTable {
 public:
  explicit TextTable(std::vector<std::string> head) : rows_{std::move(head)} {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  /// Columns aligned with two spaces between them.
  std::string text() const;
  /// A table of Markdown.
  std::string markdown() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

/// Columns that a terminal shows for a text in UTF-8.
size_t columns_of(const std::string& text);

}  // namespace formwork

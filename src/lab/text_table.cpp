#include "lab/text_table.h"

#include <algorithm>

namespace formwork {

size_t columns_of(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0U) != 0x80U;  // not the inside of a character
  }));
}

std::string TextTable::text() const {
  std::vector<size_t> widths(rows_.front().size(), 0);
  for (const auto& row : rows_)
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], columns_of(row[i]));
  std::string out;
  for (const auto& row : rows_) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string room(widths[i] - columns_of(row[i]), ' ');
      line += i == 0 ? row[i] + room : "  " + room + row[i];
    }
    while (line.ends_with(' ')) line.pop_back();
    out += line + "\n";
  }
  return out;
}

std::string TextTable::markdown() const {
  std::string out;
  for (size_t r = 0; r < rows_.size(); ++r) {
    out += "|";
    for (const std::string& cell : rows_[r]) {
      std::string text;
      for (const char c : cell) text += c == '|' ? "\\|" : std::string(1, c);
      out += " " + text + " |";
    }
    out += "\n";
    if (r > 0) continue;
    for (size_t i = 0; i < rows_[0].size(); ++i) out += i == 0 ? "| --- |" : " ---: |";
    out += "\n";
  }
  return out;
}

}  // namespace formwork

#include "data/problem.h"

#include <string>

namespace formwork {

std::string DataPlace::text() const {
  if (line > 0 && column > 0) return join_text(file, ":", line, ":", column);
  if (line > 0) return join_text(file, ":", line);
  if (byte >= 0) return join_text(file, ": byte ", byte);
  return file;
}

void Problems::add(const DataPlace& place, const std::string& what) {
  if (findings_ == nullptr) throw DataError(place, what);
  if (count_++ < most_) findings_->push_back({Severity::problem, place, what});
}

void Problems::finish(const std::string& file) {
  if (findings_ == nullptr || count_ <= most_) return;
  findings_->push_back(
      {Severity::problem, {file}, join_text("has ", count_ - most_, " more problems")});
}

std::string shown(std::string_view text) {
  constexpr size_t kMost = 40;
  constexpr char kHex[] = "0123456789abcdef";
  std::string result = "\"";
  for (const char c : text.substr(0, kMost)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte >= 0x7f) {
      result += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    } else {
      result += c;
    }
  }
  return result + (text.size() > kMost ? "...\"" : "\"");
}

}  // namespace formwork

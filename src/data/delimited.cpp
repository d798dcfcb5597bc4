#include "data/delimited.h"

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace formwork {

DelimitedReader::DelimitedReader(std::string_view text, char separator, std::string file)
    : text_(text), separator_(separator), file_(std::move(file)) {
  if (text_.starts_with("\xef\xbb\xbf")) position_ = line_start_ = 3;
}

DataPlace DelimitedReader::here() const {
  return {file_, line_, static_cast<int64_t>(position_ - line_start_) + 1,
          static_cast<int64_t>(position_)};
}

bool DelimitedReader::at_line_end() const {
  return position_ >= text_.size() || text_[position_] == '\n' || text_[position_] == '\r';
}

void DelimitedReader::skip_line_end() {
  if (position_ >= text_.size()) return;
  const bool both = text_.substr(position_).starts_with("\r\n");
  position_ += both ? 2 : 1;
  line_start_ = position_;
  ++line_;
}

void DelimitedReader::read_quoted(Field& field) {
  ++position_;
  while (true) {
    if (position_ >= text_.size()) refuse_at(field.place, "the quote that begins here never ends");
    const char c = text_[position_];
    if (c == '"') {
      ++position_;
      if (position_ >= text_.size() || text_[position_] != '"') break;
      field.text += '"';
      ++position_;
    } else if (c == '\n' || c == '\r') {
      const size_t start = position_;
      skip_line_end();
      field.text += text_.substr(start, position_ - start);
    } else {
      field.text += c;
      ++position_;
    }
  }
  if (!at_line_end() && text_[position_] != separator_) {
    refuse_at(here(), "a closing quote is followed by ", shown(text_.substr(position_, 1)),
              ", a separator or the end of the line is needed");
  }
}

void DelimitedReader::read_field(Field& field) {
  field.text.clear();
  field.place = here();
  if (position_ < text_.size() && text_[position_] == '"') return read_quoted(field);
  const size_t start = position_;
  while (!at_line_end() && text_[position_] != separator_) ++position_;
  field.text.assign(text_.substr(start, position_ - start));
}

bool DelimitedReader::next(std::vector<Field>& fields) {
  while (position_ < text_.size() && at_line_end()) skip_line_end();
  if (position_ >= text_.size()) return false;
  size_t count = 0;
  while (true) {
    if (count == fields.size()) fields.emplace_back();
    read_field(fields[count++]);
    if (at_line_end()) break;
    ++position_;  // the separator; an empty field may follow it
  }
  fields.resize(count);
  skip_line_end();
  return true;
}

}  // namespace formwork

#include "tasks/sequence_text.h"

#include <charconv>

#include "core/error.h"

namespace formwork {
namespace {

constexpr int64_t kLetters = 26;
constexpr const char* kDigits = "0123456789+=";

}  // namespace

bool SequenceText::letters() const {
  return options_.kind == SequenceKind::addition || options_.symbols <= kLetters;
}

bool SequenceText::separated() const {
  return options_.kind != SequenceKind::markov;
}

int64_t SequenceText::plain_ids() const {
  return options_.kind == SequenceKind::recall ? 2 * options_.symbols : options_.symbols;
}

std::string SequenceText::word(int64_t id) const {
  const bool addition = options_.kind == SequenceKind::addition;
  const int64_t size = addition ? 12 : plain_ids() + (separated() ? 1 : 0);
  check(id >= 0 && id < size, "sequence", "id ", id, " is outside 0..", size - 1);
  if (addition) return std::string(1, kDigits[id]);
  if (id == plain_ids()) return "|";
  const bool value = id >= options_.symbols;
  const int64_t symbol = value ? id - options_.symbols : id;
  if (letters()) return std::string(1, static_cast<char>((value ? 'A' : 'a') + symbol));
  return (value ? "=" : "") + std::to_string(symbol);
}

int64_t SequenceText::id_of(const std::string& word) const {
  if (options_.kind == SequenceKind::addition) {
    const size_t at = std::string(kDigits).find(word);
    check(at != std::string::npos, "sequence", "found '", word, "'; valid: digits, + and =");
    return static_cast<int64_t>(at);
  }
  if (word == "|" && separated()) return plain_ids();
  bool value = false;
  int64_t symbol = -1;
  if (letters()) {
    value = word[0] >= 'A' && word[0] <= 'Z';
    symbol = word[0] - (value ? 'A' : 'a');
  } else {
    value = word[0] == '=';
    const char* end = word.data() + word.size();
    if (std::from_chars(word.data() + (value ? 1 : 0), end, symbol).ptr != end) symbol = -1;
  }
  const bool legal =
      symbol >= 0 && symbol < options_.symbols && (!value || options_.kind == SequenceKind::recall);
  const SequenceText& self = *this;
  check(legal, "sequence", "found '", word, "'; valid: ", self.word(0), " to ",
        self.word(plain_ids() - 1), separated() ? " and |" : "");
  return symbol + (value ? options_.symbols : 0);
}

std::vector<int64_t> SequenceText::encode(const std::string& text) const {
  std::vector<int64_t> ids;
  std::string word;
  const auto end_word = [&] {
    if (!word.empty()) ids.push_back(id_of(word));
    word.clear();
  };
  for (const char c : text) {
    const bool blank = c == ' ' || c == '\t' || c == '\n' || c == '\r';
    if (blank || letters()) end_word();
    if (!blank) word += c;
  }
  end_word();
  return ids;
}

std::string SequenceText::decode(const std::vector<int64_t>& ids) const {
  std::string text;
  for (const int64_t id : ids) {
    if (!letters() && !text.empty()) text += ' ';
    text += word(id);
  }
  return text;
}

}  // namespace formwork

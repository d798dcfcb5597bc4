#include "data/text.h"

#include <algorithm>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "core/error.h"
#include "data/file.h"
#include "data/problem.h"

namespace formwork {
namespace {

constexpr size_t kMostCharacters = 65536;

uint8_t byte_at(std::string_view text, size_t i) {
  return static_cast<uint8_t>(text[i]);
}

/// Bytes of the character that begins at `i`, 0 where it is not valid; its code point in `out`.
size_t decode_one(std::string_view text, size_t i, char32_t& out) {
  const uint8_t first = byte_at(text, i);
  if (first < 0x80) {
    out = first;
    return 1;
  }
  const size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() - i < size) return 0;
  char32_t value = first & (0x7f >> size);
  for (size_t k = 1; k < size; ++k) {
    const uint8_t next = byte_at(text, i + k);
    if ((next & 0xc0) != 0x80) return 0;
    value = value << 6 | (next & 0x3f);
  }
  const bool overlong = (size == 3 && value < 0x800) || (size == 4 && value < 0x10000);
  if (overlong || value > 0x10ffff || (value >= 0xd800 && value < 0xe000)) return 0;
  out = value;
  return size;
}

std::string character_text(char32_t character) {
  std::string text;
  append_utf8(text, character);
  return text;
}

}  // namespace

std::vector<char32_t> decode_utf8(std::string_view text, const std::string& file) {
  std::vector<char32_t> result;
  result.reserve(text.size());
  char32_t character = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t size = decode_one(text, i, character);
    if (size == 0) {
      refuse_at({file, 0, 0, static_cast<int64_t>(i)}, shown(text.substr(i, 1)),
                " is not valid UTF-8; read the text as bytes or convert it");
    }
    result.push_back(character);
    i += size;
  }
  return result;
}

void append_utf8(std::string& text, char32_t c) {
  const auto tail = [&](int shift) { text += static_cast<char>(0x80 | (c >> shift & 0x3f)); };
  if (c < 0x80) {
    text += static_cast<char>(c);
  } else if (c < 0x800) {
    text += static_cast<char>(0xc0 | c >> 6);
    tail(0);
  } else if (c < 0x10000) {
    text += static_cast<char>(0xe0 | c >> 12);
    tail(6);
    tail(0);
  } else {
    text += static_cast<char>(0xf0 | c >> 18);
    tail(12);
    tail(6);
    tail(0);
  }
}

size_t find_invalid_utf8(std::string_view text) {
  char32_t character = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t size = decode_one(text, i, character);
    if (size == 0) return i;
    i += size;
  }
  return std::string_view::npos;
}

CharacterVocabulary::CharacterVocabulary(std::span<const char32_t> text) {
  const char32_t largest = text.empty() ? 0 : *std::max_element(text.begin(), text.end());
  check(largest <= 0x10ffff, "vocabulary", "holds a number that is no Unicode character");
  std::vector<bool> seen(size_t{largest} + 1, false);
  for (const char32_t character : text) seen[character] = true;
  for (size_t c = 0; c < seen.size(); ++c) {
    if (seen[c]) characters_.push_back(static_cast<char32_t>(c));
  }
  check(characters_.size() <= kMostCharacters, "vocabulary", "the text has ", characters_.size(),
        " different characters, at most ", kMostCharacters, " are allowed; read it as bytes");
}

int64_t CharacterVocabulary::find(char32_t character) const {
  const auto at = std::lower_bound(characters_.begin(), characters_.end(), character);
  return at != characters_.end() && *at == character ? at - characters_.begin() : -1;
}

std::vector<int64_t> CharacterVocabulary::encode(std::string_view text) const {
  std::vector<int64_t> ids;
  for (const char32_t character : decode_utf8(text, "text")) {
    ids.push_back(find(character));
    check(ids.back() >= 0, "text", "the character '", character_text(character),
          "' does not occur in the text that the vocabulary was made from");
  }
  return ids;
}

std::string CharacterVocabulary::decode(std::span<const int64_t> ids) const {
  std::string text;
  for (const int64_t id : ids) {
    check(id >= 0 && id < size(), "vocabulary", "id ", id, " is outside 0..", size() - 1);
    append_utf8(text, characters_[static_cast<size_t>(id)]);
  }
  return text;
}

std::string CharacterVocabulary::text() const {
  std::string text;
  for (const char32_t character : characters_) append_utf8(text, character);
  return text;
}

TextData TextData::read(const std::string& path, TextUnit unit) {
  std::error_code error;
  if (!std::filesystem::is_directory(path, error)) {
    return parse(read_filled_file(path), unit, path);
  }
  std::string text;
  for (const std::string& file : files_below(path)) {
    const std::string part = read_file(file);
    // Checked file by file, so that an error names the file and not the folder.
    if (unit == TextUnit::characters) decode_utf8(part, file);
    text += part;
  }
  check(!text.empty(), path, "the folder holds no text");
  return parse(text, unit, path);
}

TextData TextData::parse(std::string_view text, TextUnit unit, const std::string& file) {
  check(!text.empty(), file, "is empty");
  TextData data;
  data.unit_ = unit;
  data.bytes_ = static_cast<int64_t>(text.size());
  data.ids_.reserve(text.size());
  if (unit == TextUnit::bytes) {
    for (size_t i = 0; i < text.size(); ++i) data.ids_.push_back(byte_at(text, i));
    return data;
  }
  const std::vector<char32_t> characters = decode_utf8(text, file);
  data.vocabulary_ = CharacterVocabulary(characters);
  for (const char32_t character : characters) {
    data.ids_.push_back(static_cast<uint16_t>(data.vocabulary_.find(character)));
  }
  return data;
}

int64_t TextData::vocabulary_size() const {
  return unit_ == TextUnit::bytes ? 256 : vocabulary_.size();
}

std::vector<int64_t> TextData::encode(std::string_view text) const {
  if (unit_ == TextUnit::characters) return vocabulary_.encode(text);
  std::vector<int64_t> ids;
  for (size_t i = 0; i < text.size(); ++i) ids.push_back(byte_at(text, i));
  return ids;
}

std::string TextData::decode(std::span<const int64_t> ids) const {
  if (unit_ == TextUnit::characters) return vocabulary_.decode(ids);
  std::string text;
  for (const int64_t id : ids) {
    check(id >= 0 && id < 256, "bytes", "id ", id, " is outside 0..255");
    text += static_cast<char>(id);
  }
  return text;
}

Interval TextData::train_range(double fraction) const {
  check(fraction > 0 && fraction < 1, "text", "the fraction for validation is ", fraction,
        ", a number between 0 and 1 is needed");
  return {0, size() - static_cast<int64_t>(static_cast<double>(size()) * fraction)};
}

Interval TextData::validation_range(double fraction) const {
  return {train_range(fraction).end, size()};
}

std::vector<int64_t> encode_lra_bytes(std::string_view text, int64_t length) {
  std::vector<int64_t> ids(static_cast<size_t>(length), 0);
  const size_t count = std::min(text.size(), ids.size());
  for (size_t i = 0; i < count; ++i) ids[i] = byte_at(text, i) + int64_t{1};
  return ids;
}

std::string decode_lra_bytes(std::span<const int64_t> ids) {
  std::string text;
  for (const int64_t id : ids) {
    if (id == 0) break;
    check(id > 0 && id < kLraByteVocabulary, "bytes", "id ", id, " is outside 0..256");
    text += static_cast<char>(id - 1);
  }
  return text;
}

}  // namespace formwork

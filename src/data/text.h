// Plain text as bytes or as characters.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace formwork {

enum class TextUnit { bytes, characters };

/// The code points of UTF-8 text (no overlong forms, no surrogates). The first invalid byte is
/// refused with its offset, naming `file`.
std::vector<char32_t> decode_utf8(std::string_view text, const std::string& file);

/// Appends the UTF-8 form of a code point.
void append_utf8(std::string& text, char32_t code_point);

/// Offset of the first byte that is not valid UTF-8, or npos.
size_t find_invalid_utf8(std::string_view text);

/// The characters that occur in a text, sorted by code point; a character's id is its rank.
class CharacterVocabulary {
 public:
  CharacterVocabulary() = default;
  /// From code points in any order; at most 65,536 different ones.
  explicit CharacterVocabulary(std::span<const char32_t> text);

  int64_t size() const { return static_cast<int64_t>(characters_.size()); }
  const std::vector<char32_t>& characters() const { return characters_; }
  /// Ids of UTF-8 text; a character outside the vocabulary is refused, naming it.
  std::vector<int64_t> encode(std::string_view text) const;
  /// Text of ids; one outside 0..size-1 is refused.
  std::string decode(std::span<const int64_t> ids) const;
  /// The whole vocabulary as UTF-8 text, which makes it again: for checkpoints.
  std::string text() const;

 private:
  friend class TextData;
  int64_t find(char32_t character) const;  // -1: absent

  std::vector<char32_t> characters_;
};

/// A half-open range of positions.
struct Interval {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};

/// A text file, or all files of a folder one after the other, as ids.
class TextData {
 public:
  /// Reads a file or a folder (see files_below). Empty files in a folder are skipped; a text that
  /// is empty altogether is refused.
  static TextData read(const std::string& path, TextUnit unit);
  static TextData parse(std::string_view text, TextUnit unit, const std::string& file);

  TextUnit unit() const { return unit_; }
  int64_t size() const { return static_cast<int64_t>(ids_.size()); }
  /// 256 for bytes, the number of different characters otherwise.
  int64_t vocabulary_size() const;
  std::span<const uint16_t> ids() const { return ids_; }
  /// Empty for bytes.
  const CharacterVocabulary& vocabulary() const { return vocabulary_; }
  /// Size of the text in UTF-8, for bits per byte.
  int64_t bytes() const { return bytes_; }
  std::vector<int64_t> encode(std::string_view text) const;
  std::string decode(std::span<const int64_t> ids) const;
  /// The first part for training and the last `fraction` (0 < fraction < 1) for validation.
  Interval train_range(double fraction) const;
  Interval validation_range(double fraction) const;

 private:
  TextUnit unit_ = TextUnit::bytes;
  std::vector<uint16_t> ids_;
  CharacterVocabulary vocabulary_;
  int64_t bytes_ = 0;
};

/// The Long Range Arena's bytes: id = byte + 1, the first `length` bytes, padded with 0.
inline constexpr int64_t kLraByteVocabulary = 257;
std::vector<int64_t> encode_lra_bytes(std::string_view text, int64_t length);
/// The bytes of such ids up to the first padding.
std::string decode_lra_bytes(std::span<const int64_t> ids);

}  // namespace formwork

#include "data/text.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/random.h"
#include "data/refusal.h"
#include "support/temporary_folder.h"

namespace formwork {
namespace {

using test::TemporaryFolder;

TEST(unit, text_characters) {
  const TextData data = TextData::parse(
      "b\xc3\xa9"
      "a\xf0\x9f\x98\x80"
      "b",
      TextUnit::characters, "x");
  EXPECT_EQ(data.size(), 5);
  EXPECT_EQ(data.bytes(), 9);
  EXPECT_EQ(data.vocabulary_size(), 4);  // a b é 😀
  EXPECT_EQ(std::vector<uint16_t>(data.ids().begin(), data.ids().end()),
            (std::vector<uint16_t>{1, 2, 0, 3, 1}));
  EXPECT_EQ(data.decode(data.encode("a\xc3\xa9\xf0\x9f\x98\x80")), "a\xc3\xa9\xf0\x9f\x98\x80");
  EXPECT_REFUSED(data.encode("z"), "'z'");
  EXPECT_REFUSED(data.decode(std::vector<int64_t>{4}), "outside 0..3");
  EXPECT_EQ(CharacterVocabulary(decode_utf8(data.vocabulary().text(), "x")).characters(),
            data.vocabulary().characters());
}

TEST(unit, text_split_is_a_tail) {
  const TextData data = TextData::parse(std::string(1000, 'a'), TextUnit::bytes, "x");
  EXPECT_EQ(data.train_range(0.1).size(), 900);
  EXPECT_EQ(data.validation_range(0.1).begin, 900);
  EXPECT_EQ(data.validation_range(0.1).end, 1000);
  EXPECT_REFUSED(data.train_range(1.0), "between 0 and 1");
}

TEST(unit, text_folders_are_read_in_order) {
  const TemporaryFolder folder;
  folder.write("b.txt", "2");
  folder.write("a/z.txt", "1");
  folder.write("c.txt", "");
  folder.write(".hidden", "no");
  const TextData data = TextData::read(folder.path(), TextUnit::bytes);
  EXPECT_EQ(data.decode(std::vector<int64_t>(data.ids().begin(), data.ids().end())), "12");
}

TEST(property, lra_tasks_bytes_round_trip) {
  Random random(1);
  for (int i = 0; i < 100; ++i) {
    std::string text;
    for (int64_t k = random.integer(0, 50); k > 0; --k) {
      text += static_cast<char>(random.integer(0, 255));
    }
    const auto ids = encode_lra_bytes(text, 60);
    EXPECT_EQ(ids.size(), 60u);
    EXPECT_EQ(decode_lra_bytes(ids), text);
    EXPECT_EQ(decode_lra_bytes(encode_lra_bytes(text, 10)), text.substr(0, 10));
  }
}

TEST(fault, text_invalid_utf8_has_its_byte) {
  for (const std::string bad :
       {"\xff", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf5\x80\x80\x80", "\xc3", "\xe2\x82",
        "\xf4\x90\x80\x80", "\x80"}) {
    const std::string text = "ab" + bad;
    EXPECT_EQ(find_invalid_utf8(text), 2u);
    EXPECT_REFUSED(TextData::parse(text, TextUnit::characters, "x"), "x: byte 2: ");
    EXPECT_EQ(TextData::parse(text, TextUnit::bytes, "x").size(),
              static_cast<int64_t>(text.size()));
  }
  const TemporaryFolder folder;
  folder.write("a.txt", "fine");
  const std::string bad = folder.write("b.txt", "x\xff");
  EXPECT_REFUSED(TextData::read(folder.path(), TextUnit::characters), bad + ": byte 1");
}

TEST(fault, text_empty_and_missing_files_are_named) {
  const TemporaryFolder folder;
  EXPECT_REFUSED(TextData::read(folder.path(), TextUnit::bytes), "holds no text");
  const std::string empty = folder.write("empty.txt", "");
  EXPECT_REFUSED(TextData::read(empty, TextUnit::bytes), "empty.txt: is empty");
  EXPECT_REFUSED(TextData::read(folder.file("none"), TextUnit::bytes), "none: there is no such");
}

}  // namespace
}  // namespace formwork

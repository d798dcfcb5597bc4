#include "data/check.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/random.h"
#include "data/refusal.h"
#include "support/temporary_folder.h"

namespace formwork {
namespace {

using test::TemporaryFolder;

/// The findings as text, one a line.
std::string said(const std::vector<Finding>& findings) {
  std::string text;
  for (const Finding& finding : findings) {
    text += finding.severity == Severity::summary ? "is " : "bad ";
    text += finding.place.text() + ": " + finding.what + "\n";
  }
  return text;
}

void expect_said(std::string_view bytes, const std::string& file, const std::string& words) {
  const std::string text = said(check_bytes(bytes, file));
  EXPECT_NE(text.find(words), std::string::npos) << text;
}

TEST(unit, check_summaries) {
  expect_said("hello\nworld\n", "a.txt", "is a.txt: UTF-8 text: 12 characters (8 different)");
  expect_said("Source\tTarget\r\n3\t3\r\n", "a", "is a: ListOps: 1 usable rows of 1 to 1 tokens");
  expect_said("date,a\n2020-01-01,1\n2020-01-02,2\n", "a.csv",
              "is a.csv: CSV: 2 rows, 1 numeric columns, a date column in steps of 86400 s");
  expect_said("a,b\n1,2\n", "a.csv", "no date column");
  expect_said(std::string("\0\0\x08\x01\0\0\0\2\x03\x04", 10), "l",
              "is l: IDX labels: 2, values 3 to 4");
  expect_said("\x02" + std::string(3072, 'x'), "data_batch_1.bin", "CIFAR-10: 1 colour images");
}

TEST(fault, check_names_places) {
  expect_said("", "a.txt", "bad a.txt: is empty");
  expect_said("ab\ncd\xff", "a.txt", "bad a.txt:2:3: \"\\xff\" at byte 5 is not valid UTF-8");
  expect_said("Source\tTarget\r\n( ( ( [MAX 2 ) 7 ) ] )\t6\r\n[MAX 2 7 ]\t7\r\n3\t12\r\n", "a",
              "bad a:2:24: Target is 6, but the tree's value is 7\n"
              "bad a:3:1: Source is not in the official form (left-nested parentheses)\n"
              "bad a:4:3: Target is \"12\", 0 to 9 is needed\n"
              "is a: ListOps: 2 usable rows");
  expect_said("date,a\n2020-01-01,\nx,2\n", "a.csv", "bad a.csv:2:12: the value");
  expect_said("date,a\n2020-01-01,\nx,2\n", "a.csv", "bad a.csv:3:1: \"x\" is not a date");
  expect_said(std::string("\0\0\x08\x01\0\0\0\3\x03\x04", 10), "l", "bad l: byte 4: the header");
  expect_said(std::string("\0\0\x08\x01\0\0\0\2\x03\x0c", 10), "l", "bad l: byte 9: the label of");
  expect_said("\x0c" + std::string(3072, 'x'), "test_batch.bin", "bad test_batch.bin: byte 0: the");
  expect_said("\x1f\x8b\x08", "x.gz", "truncated");
  std::string many = "Source\tTarget\r\n";
  for (int i = 0; i < 50; ++i) many += "3\tx\r\n";
  expect_said(many, "a", "bad a: has 30 more problems");
}

TEST(unit, check_folders) {
  const TemporaryFolder folder;
  EXPECT_NE(said(check_path(folder.path())).find("holds no files"), std::string::npos);
  folder.write("b.txt", "x");
  folder.write("a.csv", "a\n1\n");
  const auto findings = check_path(folder.path());
  ASSERT_EQ(findings.size(), 2u);
  EXPECT_EQ(findings[0].place.file, folder.file("a.csv"));
  EXPECT_REFUSED(check_path(folder.file("none")), "there is no such file");
}

TEST(fault, check_never_crashes_on_flipped_bits) {
  const std::vector<std::pair<std::string, std::string>> files{
      {"a.csv", "date,a\n2020-01-01,1\n2020-01-02,\"2\"\n"},
      {"a.tsv", "Source\tTarget\r\n( ( ( [MAX 2 ) 7 ) ] )\t7\r\n"},
      {"idx1-ubyte", std::string("\0\0\x08\x01\0\0\0\2\x03\x04", 10)},
      {"a.txt", "h\xc3\xa9llo"}};
  Random random(4);
  for (const auto& [name, good] : files) {
    for (int i = 0; i < 2000; ++i) {
      std::string bad = good;
      for (int64_t flips = random.integer(0, 3); flips >= 0; --flips) {
        bad[static_cast<size_t>(random.integer(0, static_cast<int64_t>(bad.size()) - 1))] ^=
            static_cast<char>(1 << random.integer(0, 7));
      }
      if (random.integer(0, 4) == 0) bad.resize(static_cast<size_t>(random.integer(0, 9)));
      EXPECT_FALSE(check_bytes(bad, name).empty());
    }
  }
}

}  // namespace
}  // namespace formwork

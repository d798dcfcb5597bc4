#include "data/listops.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "core/random.h"
#include "data/listops_file.h"
#include "data/refusal.h"
#include "support/temporary_folder.h"

namespace formwork {
namespace {

using test::TemporaryFolder;

const ListopsOptions kShort{10, 10, 20, 100, 7};

int64_t value_of(const std::string& text) {
  return listops_value(parse_listops(text));
}

/// A second evaluator, written for this test alone: recursive, on the words of the text.
struct Reference {
  std::vector<std::string> words;
  size_t at = 0;

  explicit Reference(const std::string& text) {
    std::string word;
    for (const char c : text + " ") {
      if (c != ' ') {
        word += c;
      } else {
        if (!word.empty() && word != "(" && word != ")") words.push_back(word);
        word.clear();
      }
    }
  }
  int64_t value() {
    const std::string word = words[at++];
    if (word[0] != '[') return word[0] - '0';
    std::vector<int64_t> items;
    while (words[at] != "]") items.push_back(value());
    ++at;
    std::sort(items.begin(), items.end());
    if (word == "[MIN") return items.front();
    if (word == "[MAX") return items.back();
    const size_t half = items.size() / 2;
    if (word == "[MED") return items.size() % 2 ? items[half] : (items[half - 1] + items[half]) / 2;
    int64_t sum = 0;
    for (const int64_t item : items) sum += item;
    return sum % 10;
  }
};

TEST(unit, listops_values) {
  EXPECT_EQ(value_of("7"), 7);
  EXPECT_EQ(value_of("( ( ( [MAX 2 ) 7 ) ] )"), 7);
  EXPECT_EQ(value_of("[MIN 2 7 4 X"), 2);
  EXPECT_EQ(value_of("[MED 1 4 X"), 2);
  EXPECT_EQ(value_of("[MED 9 1 4 X"), 4);
  EXPECT_EQ(value_of("[SM 9 8 [MAX 1 5 X X"), 2);
  EXPECT_EQ(value_of("[FIRST 3 8 X"), 3);
  EXPECT_EQ(value_of("[LAST 3 8 X"), 8);
  EXPECT_EQ(listops_text(parse_listops("[MAX 2 7 X")), "( ( ( [MAX 2 ) 7 ) ] )");
  EXPECT_EQ(listops_text(parse_listops("[SM [MIN 1 2 X 3 X")),
            "( ( ( [SM ( ( ( [MIN 1 ) 2 ) ] ) ) 3 ) ] )");
  EXPECT_EQ(encode_listops(parse_listops("[LAST 0 9 ]"), 6),
            (std::vector<int64_t>{16, 1, 10, 15, 0, 0}));
  EXPECT_EQ(encode_listops(parse_listops("[SM 0 9 ]"), 2), (std::vector<int64_t>{14, 1}));
}

TEST(property, lra_tasks_listops_targets_and_lengths) {
  const auto samples = generate_listops(kShort, 1000);
  std::set<std::string> texts;
  std::set<int64_t> labels;
  for (const ListopsSample& sample : samples) {
    const std::string text = listops_text(sample.tokens);
    EXPECT_EQ(Reference(text).value(), sample.label) << text;
    EXPECT_EQ(parse_listops(text), sample.tokens);
    EXPECT_EQ(Reference(text).words.size(), sample.tokens.size());
    EXPECT_GT(sample.tokens.size(), 20u);
    EXPECT_LT(sample.tokens.size(), 100u);
    texts.insert(text);
    labels.insert(sample.label);
  }
  EXPECT_EQ(texts.size(), samples.size());
  EXPECT_EQ(labels.size(), 10u);
}

TEST(property, lra_tasks_listops_is_a_function_of_the_seed) {
  ListopsOptions other = kShort;
  other.seed = 8;
  const auto texts = [](const ListopsOptions& options) {
    std::vector<std::vector<uint8_t>> trees;
    for (const auto& sample : generate_listops(options, 20)) trees.push_back(sample.tokens);
    return trees;
  };
  EXPECT_EQ(texts(kShort), texts(kShort));
  EXPECT_NE(texts(kShort), texts(other));
  const ListopsStream stream(kShort, Split::train);
  const auto late = stream.sample(5).tokens;
  EXPECT_NE(stream.sample(0).tokens, late);
  EXPECT_EQ(stream.sample(5).tokens, late);
}

TEST(property, lra_tasks_listops_leaf_frequency) {
  const ListopsOptions options{2, 5, 0, 100, 0};
  Random random(3);
  int leaves = 0;
  int arguments = 0;
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i) {
    const size_t size = draw_listops_tree(options, 1000, random).size();
    leaves += size == 1;
    arguments += size == 1 ? 0 : static_cast<int>(size) - 2;
  }
  EXPECT_NEAR(leaves / double{kDraws}, 0.75, 0.02);
  EXPECT_NEAR(arguments / double(kDraws - leaves), 3.5, 0.1);
}

TEST(property, lra_tasks_listops_splits_share_no_example) {
  // Few enough trees that every split would meet the others' trees.
  const ListopsOptions options{2, 3, 1, 6, 1};
  std::set<std::vector<uint8_t>> seen[3];
  for (const Split split : {Split::train, Split::validation, Split::test}) {
    const ListopsStream stream(options, split);
    for (uint64_t i = 0; i < 300; ++i) {
      seen[static_cast<int>(split)].insert(stream.sample(i).tokens);
    }
  }
  for (int a = 0; a < 3; ++a) {
    EXPECT_FALSE(seen[a].empty());
    for (int b = 0; b < a; ++b) {
      for (const auto& tree : seen[a]) EXPECT_EQ(seen[b].count(tree), 0u);
    }
  }
}

TEST(property, lra_tasks_listops_files_round_trip) {
  const TemporaryFolder folder;
  const auto samples = generate_listops(kShort, 50);
  EXPECT_EQ(listops_file_name(Split::validation), "basic_val.tsv");
  std::string text;
  write_listops_tsv(samples, [&](std::string_view part) { text += part; });
  folder.write("basic_val.tsv", text);
  EXPECT_TRUE(text.starts_with("Source\tTarget\r\n( ("));
  EXPECT_TRUE(text.ends_with("\r\n"));
  const auto back = read_listops_tsv(folder.file("basic_val.tsv"));
  ASSERT_EQ(back.size(), samples.size());
  for (size_t i = 0; i < back.size(); ++i) {
    EXPECT_EQ(back[i].tokens, samples[i].tokens);
    EXPECT_EQ(back[i].label, samples[i].label);
  }
}

TEST(fault, listops_options_are_refused) {
  EXPECT_REFUSED(generate_listops({10, 10, 50, 50, 0}, 1), "min_length 50 and max_length 50");
  EXPECT_REFUSED(generate_listops({10, 10, 50, 51, 0}, 1), "strictly between");
  EXPECT_REFUSED(generate_listops({10, 1, 50, 100, 0}, 1), "max_args is 1");
  EXPECT_REFUSED(generate_listops({0, 10, 50, 100, 0}, 1), "max_depth is 0");
  EXPECT_REFUSED(generate_listops({3, 3, 50, 100, 0}, 1), "at most 17 tokens");
}

TEST(fault, listops_trees_are_refused) {
  EXPECT_REFUSED(value_of(""), "empty");
  EXPECT_REFUSED(value_of("1 2"), "token 2 follows");
  EXPECT_REFUSED(value_of("X"), "not open");
  EXPECT_REFUSED(value_of("[MAX X"), "without arguments");
  EXPECT_REFUSED(value_of("[MAX 1 [MIN 2"), "2 brackets are not closed");
  EXPECT_REFUSED(value_of("[MAX 1 [MEAN 2 X X"), "column 8 holds the unknown word \"[MEAN\"");
  std::string deep;
  for (int i = 0; i < 1000000; ++i) deep += "[MAX ";
  EXPECT_REFUSED(value_of(deep), "1000000 brackets");
}

TEST(fault, listops_files_name_the_line) {
  const TemporaryFolder folder;
  const auto refused = [&](const std::string& text, const std::string& words) {
    const std::string path = folder.write("a.tsv", text);
    EXPECT_REFUSED(read_listops_tsv(path), words);
  };
  refused("", "is empty");
  refused("Source,Target\r\n1,1\r\n", "Source<TAB>Target");
  refused("Source\tTarget\r\n", "no rows");
  refused("Source\tTarget\r\n( ( ( [MAX 2 ) 7 ) ] )\t7\r\n3\r\n", "a.tsv:3: has 1 columns");
  refused("Source\tTarget\r\n3\t3\t3\n", "a.tsv:2: has 3 columns");
  refused("Source\tTarget\r\n3\t10\r\n", "a.tsv:2:3: Target is \"10\"");
  refused("Source\tTarget\r\n[MUL 3 4 ]\t2\r\n", "a.tsv:2:1: Source: column 1 holds the unknown");
  refused("Source\tTarget\r\n\"3\t3\r\n", "a.tsv:2:1: the quote that begins here never ends");
  EXPECT_EQ(read_listops_tsv(folder.write("b.tsv", "Source\tTarget\n\"3\"\t4"))[0].label, 4);
}

}  // namespace
}  // namespace formwork

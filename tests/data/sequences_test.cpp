#include "data/sequences.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "data/refusal.h"

namespace formwork {
namespace {

using Tokens = std::vector<int64_t>;

SequenceOptions options_of(SequenceKind kind, int64_t length) {
  SequenceOptions options;
  options.kind = kind;
  options.length = length;
  options.seed = 11;
  return options;
}

/// The targets that the task determines.
Tokens answer(const SequenceSample& sample) {
  Tokens tokens;
  for (size_t i = 0; i < sample.mask.size(); ++i) {
    if (sample.mask[i]) tokens.push_back(sample.target[i]);
  }
  return tokens;
}

void check_form(const SequenceSource& source, const SequenceSample& sample) {
  ASSERT_EQ(static_cast<int64_t>(sample.input.size()), source.length());
  ASSERT_EQ(sample.target.size(), sample.input.size());
  ASSERT_EQ(sample.mask.size(), sample.input.size());
  for (size_t i = 0; i + 1 < sample.input.size(); ++i) {
    EXPECT_EQ(sample.target[i], sample.input[i + 1]);
  }
  for (const Tokens* tokens : {&sample.input, &sample.target}) {
    for (const int64_t token : *tokens) {
      EXPECT_GE(token, 0);
      EXPECT_LT(token, source.vocabulary_size());
    }
  }
}

TEST(unit, sequences_rearranged) {
  for (const auto kind : {SequenceKind::copy, SequenceKind::reverse, SequenceKind::sort}) {
    const SequenceSource source(options_of(kind, 9));
    for (uint64_t i = 0; i < 20; ++i) {
      const SequenceSample sample = source.sample(Split::train, i);
      check_form(source, sample);
      Tokens expected(sample.input.begin(), sample.input.begin() + 9);
      if (kind == SequenceKind::reverse) std::reverse(expected.begin(), expected.end());
      if (kind == SequenceKind::sort) std::sort(expected.begin(), expected.end());
      EXPECT_EQ(answer(sample), expected);
      EXPECT_EQ(sample.input[9], 16);
    }
  }
}

TEST(unit, sequences_recall) {
  const SequenceSource source(options_of(SequenceKind::recall, 8));
  for (uint64_t i = 0; i < 50; ++i) {
    const SequenceSample sample = source.sample(Split::validation, i);
    check_form(source, sample);
    std::map<int64_t, int64_t> pairs;
    for (size_t p = 0; p < 8; ++p) pairs[sample.input[2 * p]] = sample.input[2 * p + 1];
    EXPECT_EQ(pairs.size(), 8u);
    EXPECT_EQ(answer(sample), Tokens{pairs.at(sample.input.back())});
  }
}

TEST(unit, sequences_first) {
  const SequenceSource source(options_of(SequenceKind::first, 8));
  EXPECT_EQ(source.length(), 9);
  for (uint64_t i = 0; i < 50; ++i) {
    const SequenceSample sample = source.sample(Split::validation, i);
    check_form(source, sample);
    EXPECT_EQ(std::set<int64_t>(sample.input.begin(), sample.input.end()).size(), 9u);
    EXPECT_EQ(answer(sample), Tokens{sample.input.front()});
  }
}

TEST(unit, sequences_addition) {
  for (const bool reversed : {false, true}) {
    SequenceOptions options = options_of(SequenceKind::addition, 6);
    options.reversed_answer = reversed;
    const SequenceSource source(options);
    for (uint64_t i = 0; i < 50; ++i) {
      const SequenceSample sample = source.sample(Split::train, i);
      check_form(source, sample);
      const auto number = [](Tokens digits) {
        int64_t value = 0;
        for (const int64_t digit : digits) value = 10 * value + digit;
        return value;
      };
      const auto at = sample.input.begin();
      EXPECT_EQ(sample.input[6], 10);
      EXPECT_EQ(sample.input[13], 11);
      Tokens sum = answer(sample);
      EXPECT_EQ(sum.size(), 7u);
      if (reversed) std::reverse(sum.begin(), sum.end());
      EXPECT_EQ(number(sum), number({at, at + 6}) + number({at + 7, at + 13}));
    }
  }
}

TEST(unit, sequences_markov_follows_its_table) {
  SequenceOptions options = options_of(SequenceKind::markov, 2000);
  options.symbols = 3;
  options.order = 2;
  const SequenceSource source(options);
  ASSERT_EQ(source.transitions().size(), 27u);
  std::vector<double> counts(27, 0);
  double log_likelihood = 0, tokens = 0;
  for (uint64_t i = 0; i < 40; ++i) {
    const SequenceSample sample = source.sample(Split::train, i);
    check_form(source, sample);
    EXPECT_EQ(answer(sample).size(), 1999u);
    for (size_t t = 1; t < sample.input.size(); ++t) {
      const auto cell =
          static_cast<size_t>((sample.input[t - 1] * 3 + sample.input[t]) * 3 + sample.target[t]);
      ++counts[cell];
      log_likelihood += std::log(source.transitions()[cell]);
      ++tokens;
    }
  }
  for (size_t row = 0; row < 9; ++row) {
    const double total = counts[3 * row] + counts[3 * row + 1] + counts[3 * row + 2];
    double sum = 0;
    for (size_t s = 0; s < 3; ++s) {
      const double chance = source.transitions()[3 * row + s];
      sum += chance;
      if (total > 500) {
        EXPECT_NEAR(counts[3 * row + s] / total, chance, 4 * std::sqrt(.25 / total));
      }
    }
    EXPECT_NEAR(sum, 1, 1e-12);
  }
  // The entropy rate is the mean of -log p; 80,000 tokens bring its error below .02.
  EXPECT_NEAR(*source.entropy_rate(), -log_likelihood / tokens, 0.03);
}

TEST(unit, sequences_markov_concentration) {
  SequenceOptions options = options_of(SequenceKind::markov, 4);
  options.symbols = 8;
  options.concentration = 1e6;
  EXPECT_NEAR(*SequenceSource(options).entropy_rate(), std::log(8), 1e-3);
  options.concentration = 1e-3;
  EXPECT_LT(*SequenceSource(options).entropy_rate(), 0.2);
  options.order = 0;
  EXPECT_EQ(SequenceSource(options).transitions().size(), 8u);
}

TEST(property, sequences_are_functions_of_seed_split_and_index) {
  for (const char* name : {"copy", "reverse", "sort", "recall", "first", "addition", "markov"}) {
    SequenceOptions options = options_of(parse_sequence_kind(name, "task.kind"), 8);
    const SequenceSource source(options);
    EXPECT_EQ(sequence_kind_name(options.kind), name);
    const Tokens late = source.sample(Split::train, 7).input;
    EXPECT_NE(source.sample(Split::train, 0).input, late);
    EXPECT_EQ(SequenceSource(options).sample(Split::train, 7).input, late);
    EXPECT_NE(source.sample(Split::test, 7).input, late);
    options.seed = 12;
    EXPECT_NE(SequenceSource(options).sample(Split::train, 7).input, late);
  }
}

TEST(property, sequences_splits_share_no_example) {
  const SequenceSource source(options_of(SequenceKind::addition, 2));
  std::set<Tokens> training;
  for (uint64_t i = 0; i < 20000; ++i) training.insert(source.sample(Split::train, i).input);
  EXPECT_GT(training.size(), 7000u);
  for (uint64_t i = 0; i < 300; ++i) {
    EXPECT_EQ(training.count(source.sample(Split::validation, i).input), 0u);
    EXPECT_EQ(training.count(source.sample(Split::test, i).input), 0u);
  }
}

TEST(fault, sequences_options_are_refused) {
  EXPECT_REFUSED(parse_sequence_kind("cpy", "task.kind"), "valid are copy, reverse");
  EXPECT_REFUSED(SequenceSource(options_of(SequenceKind::copy, 0)), "length is 0");
  EXPECT_REFUSED(SequenceSource(options_of(SequenceKind::recall, 17)), "17 pairs");
  EXPECT_REFUSED(SequenceSource(options_of(SequenceKind::first, 17)), "17 needs as many");
  SequenceOptions options = options_of(SequenceKind::markov, 10);
  options.order = 9;
  EXPECT_REFUSED(SequenceSource{options}, "lower one of them");
  options.order = 11;
  options.symbols = 2;
  EXPECT_REFUSED(SequenceSource{options}, "length is 10");
  options.order = 1;
  options.concentration = 0;
  EXPECT_REFUSED(SequenceSource{options}, "concentration is 0");
  options = options_of(SequenceKind::copy, 1);
  options.symbols = 2;
  int refused = 0;
  for (const auto split : {Split::train, Split::validation, Split::test}) {
    try {
      SequenceSource(options).sample(split, 0);
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GE(refused, 1);  // two examples cannot fill three parts
}

}  // namespace
}  // namespace formwork

#include "data/sequences.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/random.h"

namespace formwork {
namespace {

constexpr std::array<std::string_view, 7> kNames{"copy",  "reverse",  "sort",  "recall",
                                                 "first", "addition", "markov"};
constexpr int64_t kMostLength = int64_t{1} << 24;
constexpr int64_t kMostSymbols = int64_t{1} << 20;
constexpr int64_t kMostTable = int64_t{1} << 22;
constexpr int64_t kMostIterated = int64_t{1} << 18;
constexpr int64_t kPlus = 10;
constexpr int64_t kEquals = 11;
constexpr int kMostRetries = 10000;

/// A whole example: what is given, and the answer.
struct Example {
  std::vector<int64_t> given;
  std::vector<int64_t> answer;
};

/// x1 .. xn and what copy, reverse or sort makes of it.
Example draw_rearranged(const SequenceOptions& options, Random& random) {
  Example example;
  for (int64_t i = 0; i < options.length; ++i) {
    example.given.push_back(random.integer(0, options.symbols - 1));
  }
  example.answer = example.given;
  if (options.kind == SequenceKind::reverse) {
    std::reverse(example.answer.begin(), example.answer.end());
  } else if (options.kind == SequenceKind::sort) {
    std::sort(example.answer.begin(), example.answer.end());
  }
  example.given.push_back(options.symbols);
  return example;
}

/// Different symbols, the first of which is asked for.
Example draw_first(const SequenceOptions& options, Random& random) {
  std::vector<int64_t> symbols(static_cast<size_t>(options.symbols));
  std::iota(symbols.begin(), symbols.end(), 0);
  for (int64_t i = 0; i < options.length; ++i)
    std::swap(symbols[i], symbols[random.integer(i, options.symbols - 1)]);
  symbols.resize(static_cast<size_t>(options.length));
  Example example{symbols, {symbols.front()}};
  example.given.push_back(options.symbols);
  return example;
}

/// Keys are 0 .. symbols-1, values follow them, the separator is last.
Example draw_recall(const SequenceOptions& options, Random& random) {
  std::vector<int64_t> keys(static_cast<size_t>(options.symbols));
  for (size_t i = 0; i < keys.size(); ++i) keys[i] = static_cast<int64_t>(i);
  Example example;
  for (int64_t i = 0; i < options.length; ++i) {
    std::swap(keys[i], keys[random.integer(i, options.symbols - 1)]);
    example.given.push_back(keys[i]);
    example.given.push_back(options.symbols + random.integer(0, options.symbols - 1));
  }
  const auto asked = static_cast<size_t>(random.integer(0, options.length - 1));
  example.answer = {example.given[2 * asked + 1]};
  example.given.push_back(2 * options.symbols);
  example.given.push_back(keys[asked]);
  return example;
}

/// Digit by digit, so that numbers of any length can be added.
Example draw_addition(const SequenceOptions& options, Random& random) {
  const auto digits = static_cast<size_t>(options.length);
  std::vector<int64_t> a(digits), b(digits), sum(digits + 1);
  for (int64_t& digit : a) digit = random.integer(0, 9);
  for (int64_t& digit : b) digit = random.integer(0, 9);
  int64_t carry = 0;
  for (size_t i = digits; i-- > 0;) {
    const int64_t here = a[i] + b[i] + carry;
    sum[i + 1] = here % 10;
    carry = here / 10;
  }
  sum[0] = carry;
  if (options.reversed_answer) std::reverse(sum.begin(), sum.end());
  Example example{std::move(a), std::move(sum)};
  example.given.push_back(kPlus);
  example.given.insert(example.given.end(), b.begin(), b.end());
  example.given.push_back(kEquals);
  return example;
}

Example draw_example(const SequenceOptions& options, Random& random) {
  switch (options.kind) {
    case SequenceKind::recall:
      return draw_recall(options, random);
    case SequenceKind::first:
      return draw_first(options, random);
    case SequenceKind::addition:
      return draw_addition(options, random);
    default:
      return draw_rearranged(options, random);
  }
}

Split split_of_tokens(const std::vector<int64_t>& tokens) {
  return split_of({reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(int64_t)});
}

/// Gamma(shape, 1) by Marsaglia and Tsang (2000).
double draw_gamma(double shape, Random& random) {
  if (shape < 1) {
    const double boost = std::pow(1.0 - random.uniform(), 1.0 / shape);
    return draw_gamma(shape + 1, random) * boost;
  }
  const double d = shape - 1.0 / 3.0, c = 1.0 / std::sqrt(9.0 * d);
  while (true) {
    const double x = random.normal();
    const double v = std::pow(1.0 + c * x, 3);
    if (v > 0 && std::log(1.0 - random.uniform()) < 0.5 * x * x + d - d * v + d * std::log(v)) {
      return d * v;
    }
  }
}

/// Dirichlet rows. Where every gamma underflows (tiny concentrations) the row is one certain
/// symbol.
std::vector<double> draw_transitions(const SequenceOptions& options, int64_t rows) {
  Random random = RandomStream(options.seed).child("markov").child("table").random();
  std::vector<double> table;
  table.reserve(static_cast<size_t>(rows * options.symbols));
  for (int64_t row = 0; row < rows; ++row) {
    std::vector<double> weights;
    double sum = 0;
    for (int64_t s = 0; s < options.symbols; ++s) {
      weights.push_back(draw_gamma(options.concentration, random));
      sum += weights.back();
    }
    if (!(sum > 0)) {
      weights[static_cast<size_t>(random.integer(0, options.symbols - 1))] = sum = 1;
    }
    for (const double weight : weights) table.push_back(weight / sum);
  }
  return table;
}

/// Rows of the table, or 0 where they are too many.
int64_t table_rows(const SequenceOptions& options) {
  int64_t rows = 1;
  for (int64_t i = 0; i < options.order; ++i) {
    if (rows > kMostTable / options.symbols) return 0;
    rows *= options.symbols;
  }
  return rows > kMostTable / options.symbols ? 0 : rows;
}

void check_sequence(const SequenceOptions& options) {
  constexpr std::string_view kWhere = "sequence";
  check(options.length >= 1 && options.length <= kMostLength, kWhere, "length is ", options.length,
        ", 1 to ", kMostLength, " is needed");
  if (options.kind == SequenceKind::addition) return;
  check(options.symbols >= 2 && options.symbols <= kMostSymbols, kWhere, "symbols is ",
        options.symbols, ", 2 to ", kMostSymbols, " is needed");
  if (options.kind == SequenceKind::recall) {
    check(options.length <= options.symbols, kWhere, options.length,
          " pairs need as many different keys, but symbols is ", options.symbols);
  }
  if (options.kind == SequenceKind::first) {
    check(options.length <= options.symbols, kWhere, "a length of ", options.length,
          " needs as many different symbols, but symbols is ", options.symbols);
  }
  if (options.kind != SequenceKind::markov) return;
  check(options.order >= 0, kWhere, "order is ", options.order, ", at least 0 is needed");
  check(options.length >= options.order, kWhere, "length is ", options.length,
        ", but no token has its whole history of ", options.order, " tokens then");
  check(options.concentration > 0 && std::isfinite(options.concentration), kWhere,
        "concentration is ", options.concentration, ", a positive number is needed");
  check(table_rows(options) > 0, kWhere, options.symbols, " symbols and order ", options.order,
        " need a table of more than ", kMostTable, " numbers; lower one of them");
}

SequenceSample as_sample(const std::vector<int64_t>& tokens, size_t first_masked) {
  SequenceSample sample;
  sample.input.assign(tokens.begin(), tokens.end() - 1);
  sample.target.assign(tokens.begin() + 1, tokens.end());
  sample.mask.assign(sample.target.size(), 0);
  for (size_t i = first_masked; i < sample.mask.size(); ++i) sample.mask[i] = 1;
  return sample;
}

}  // namespace

SequenceKind parse_sequence_kind(std::string_view name, std::string_view where) {
  const auto at = std::find(kNames.begin(), kNames.end(), name);
  check(
      at != kNames.end(), where, "\"", name,
      "\" is no sequence task; valid are copy, reverse, sort, recall, first, addition and markov");
  return static_cast<SequenceKind>(at - kNames.begin());
}

std::string_view sequence_kind_name(SequenceKind kind) {
  return kNames[static_cast<size_t>(kind)];
}

SequenceSource::SequenceSource(const SequenceOptions& options) : options_(options) {
  check_sequence(options);
  if (options.kind == SequenceKind::markov) {
    transitions_ = draw_transitions(options, table_rows(options));
  }
}

int64_t SequenceSource::vocabulary_size() const {
  switch (options_.kind) {
    case SequenceKind::addition:
      return 12;
    case SequenceKind::recall:
      return 2 * options_.symbols + 1;
    case SequenceKind::markov:
      return options_.symbols;
    default:
      return options_.symbols + 1;
  }
}

int64_t SequenceSource::length() const {
  switch (options_.kind) {
    case SequenceKind::addition:
      return 3 * options_.length + 2;
    case SequenceKind::recall:
      return 2 * options_.length + 2;
    case SequenceKind::first:
      return options_.length + 1;
    case SequenceKind::markov:
      return options_.length;
    default:
      return 2 * options_.length;
  }
}

std::vector<int64_t> SequenceSource::draw_markov(Random& random) const {
  const int64_t symbols = options_.symbols;
  const int64_t rows = static_cast<int64_t>(transitions_.size()) / symbols;
  int64_t row = random.integer(0, rows - 1);
  const auto step = [&] {
    const double* chances = transitions_.data() + row * symbols;
    double left = random.uniform();
    int64_t symbol = 0;
    while (symbol < symbols - 1 && left >= chances[symbol]) left -= chances[symbol++];
    // Rounding may run past the last symbol that can occur.
    while (symbol > 0 && chances[symbol] <= 0) --symbol;
    row = (row * symbols + symbol) % rows;
    return symbol;
  };
  const int64_t run_in = 10 * std::max<int64_t>(options_.order, 1);
  for (int64_t i = 0; i < run_in; ++i) step();
  std::vector<int64_t> tokens;
  for (int64_t i = 0; i <= options_.length; ++i) tokens.push_back(step());
  return tokens;
}

SequenceSample SequenceSource::sample(Split split, uint64_t index) const {
  const RandomStream stream = RandomStream(options_.seed).child(sequence_kind_name(options_.kind));
  Random random = stream.child(split_name(split)).child(index).random();
  if (options_.kind == SequenceKind::markov) {
    return as_sample(draw_markov(random),
                     static_cast<size_t>(std::max<int64_t>(options_.order - 1, 0)));
  }
  for (int draw = 0; draw < kMostRetries; ++draw) {
    Example example = draw_example(options_, random);
    if (split_of_tokens(example.given) != split) continue;
    const size_t given = example.given.size();
    example.given.insert(example.given.end(), example.answer.begin(), example.answer.end());
    return as_sample(example.given, given - 1);
  }
  refuse("sequence", "length ", options_.length, " leaves no example for the ", split_name(split),
         " part; a longer one has more different examples");
}

std::optional<double> SequenceSource::entropy_rate() const {
  if (transitions_.empty() || static_cast<int64_t>(transitions_.size()) > kMostIterated) {
    return std::nullopt;
  }
  const size_t symbols = static_cast<size_t>(options_.symbols);
  const size_t rows = transitions_.size() / symbols;
  std::vector<double> law(rows, 1.0 / static_cast<double>(rows)), next(rows);
  // The lazy chain (half of the mass stays) has the same stationary law and cannot oscillate.
  for (int iteration = 0; iteration < 2000; ++iteration) {
    for (size_t row = 0; row < rows; ++row) next[row] = 0.5 * law[row];
    for (size_t row = 0; row < rows; ++row) {
      for (size_t s = 0; s < symbols; ++s) {
        next[(row * symbols + s) % rows] += 0.5 * law[row] * transitions_[row * symbols + s];
      }
    }
    double change = 0;
    for (size_t row = 0; row < rows; ++row) change += std::abs(next[row] - law[row]);
    law.swap(next);
    if (change < 1e-13) break;
  }
  double rate = 0;
  for (size_t row = 0; row < rows; ++row) {
    for (size_t s = 0; s < symbols; ++s) {
      const double chance = transitions_[row * symbols + s];
      if (chance > 0) rate -= law[row] * chance * std::log(chance);
    }
  }
  return rate;
}

}  // namespace formwork

#include "data/listops.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/random.h"

namespace formwork {
namespace {

using namespace listops;

constexpr double kOperatorChance = 0.25;
// Draws before the options are declared hopeless; ordinary ones need 10 to 2,000.
constexpr int64_t kMostDraws = 5'000'000;

constexpr std::array<std::string_view, 19> kWords{"",    "0", "1", "2",      "3",    "4",    "5",
                                                  "6",   "7", "8", "9",      "[MIN", "[MAX", "[MED",
                                                  "[SM", "X", "",  "[FIRST", "[LAST"};

bool is_digit(uint8_t symbol) {
  return symbol >= 1 && symbol <= 10;
}

bool is_operator(uint8_t symbol) {
  return (symbol >= kMin && symbol <= kSum) || symbol == kFirst || symbol == kLast;
}

std::string_view content(const std::vector<uint8_t>& tokens) {
  return {reinterpret_cast<const char*>(tokens.data()), tokens.size()};
}

/// Draws trees; stops early, since a tree that has reached the limit is rejected in any case.
class TreeDrawer {
 public:
  TreeDrawer(const ListopsOptions& options, int64_t limit, Random& random)
      : options_(options), limit_(limit), random_(random) {}

  bool draw(int64_t depth, std::vector<uint8_t>& tokens) {
    if (static_cast<int64_t>(tokens.size()) >= limit_) return false;
    const double chance = depth < options_.max_depth ? random_.uniform() : 1.0;
    if (chance > kOperatorChance) {
      tokens.push_back(static_cast<uint8_t>(1 + random_.integer(0, 9)));
      return true;
    }
    const int64_t arguments = random_.integer(2, options_.max_args);
    const size_t place = tokens.size();
    tokens.push_back(kUnknown);
    for (int64_t i = 0; i < arguments; ++i) {
      if (!draw(depth + 1, tokens)) return false;
    }
    tokens[place] = static_cast<uint8_t>(random_.integer(kMin, kSum));
    tokens.push_back(kClose);
    return static_cast<int64_t>(tokens.size()) < limit_;
  }

 private:
  const ListopsOptions& options_;
  int64_t limit_;
  Random& random_;
};

/// Draws until a tree is long enough and `wanted` takes it.
template <class Wanted>
std::vector<uint8_t> draw_until(const ListopsOptions& options, Random& random, Wanted wanted) {
  for (int64_t draws = 0; draws < kMostDraws; ++draws) {
    std::vector<uint8_t> tokens = draw_listops_tree(options, options.max_length, random);
    if (static_cast<int64_t>(tokens.size()) > options.min_length && wanted(tokens)) return tokens;
  }
  fail("listops", kMostDraws, " draws gave no new tree of more than ", options.min_length,
       " and fewer than ", options.max_length, " tokens; widen the bounds or ask for fewer trees");
}

int64_t apply(uint8_t op, std::vector<int64_t> arguments) {
  switch (op) {
    case kMin:
      return *std::min_element(arguments.begin(), arguments.end());
    case kMax:
      return *std::max_element(arguments.begin(), arguments.end());
    case kFirst:
      return arguments.front();
    case kLast:
      return arguments.back();
    case kSum: {
      int64_t sum = 0;
      for (const int64_t argument : arguments) sum += argument;
      return sum % 10;
    }
    default: {
      std::sort(arguments.begin(), arguments.end());
      const size_t middle = arguments.size() / 2;
      if (arguments.size() % 2 == 1) return arguments[middle];
      return (arguments[middle - 1] + arguments[middle]) / 2;
    }
  }
}

struct OpenOperator {
  uint8_t op;
  std::vector<int64_t> arguments;
};

}  // namespace

void check_listops(const ListopsOptions& options, std::string_view where) {
  check(options.max_depth >= 1, where, "max_depth is ", options.max_depth,
        ", at least 1 is needed");
  check(options.max_depth <= 100, where, "max_depth is ", options.max_depth,
        ", at most 100 is allowed");
  check(options.max_args >= 2, where, "max_args is ", options.max_args, ", at least 2 is needed");
  check(options.min_length >= 0, where, "min_length is ", options.min_length,
        ", at least 0 is needed");
  check(options.min_length + 1 < options.max_length, where, "min_length ", options.min_length,
        " and max_length ", options.max_length,
        " leave no length strictly between them; raise max_length");
  int64_t longest = 1;
  for (int64_t d = 1; d < options.max_depth && longest <= options.min_length; ++d) {
    longest =
        longest > (INT64_MAX - 2) / options.max_args ? INT64_MAX : 2 + options.max_args * longest;
  }
  check(longest > options.min_length, where, "max_depth ", options.max_depth, " and max_args ",
        options.max_args, " allow at most ", longest, " tokens, but min_length ",
        options.min_length, " wants more; raise max_depth or max_args");
}

std::vector<uint8_t> draw_listops_tree(const ListopsOptions& options, int64_t limit,
                                       Random& random) {
  std::vector<uint8_t> tokens;
  if (!TreeDrawer(options, limit, random).draw(1, tokens)) tokens.clear();
  return tokens;
}

std::vector<ListopsSample> generate_listops(const ListopsOptions& options, int64_t count) {
  check_listops(options, "listops");
  check(count >= 0, "listops", "cannot make ", count, " samples");
  const RandomStream stream = RandomStream(options.seed).child("listops");
  Random random = stream.child("trees").random();
  std::unordered_set<std::string> seen;
  std::vector<ListopsSample> drawn;
  for (int64_t i = 0; i < count; ++i) {
    ListopsSample sample;
    sample.tokens = draw_until(options, random, [&](const std::vector<uint8_t>& tokens) {
      return seen.emplace(content(tokens)).second;
    });
    sample.label = listops_value(sample.tokens);
    drawn.push_back(std::move(sample));
  }
  std::vector<ListopsSample> shuffled(drawn.size());
  const std::vector<int64_t> order = permutation(count, stream.child("shuffle"));
  for (size_t i = 0; i < order.size(); ++i) shuffled[i] = std::move(drawn[order[i]]);
  return shuffled;
}

ListopsStream::ListopsStream(const ListopsOptions& options, Split split)
    : options_(options), split_(split) {
  check_listops(options, "listops");
}

ListopsSample ListopsStream::sample(uint64_t index) const {
  const RandomStream stream = RandomStream(options_.seed).child("listops").child("stream");
  Random random = stream.child(split_name(split_)).child(index).random();
  ListopsSample sample;
  sample.tokens = draw_until(options_, random, [&](const std::vector<uint8_t>& tokens) {
    return split_of(content(tokens)) == split_;
  });
  sample.label = listops_value(sample.tokens);
  return sample;
}

int64_t listops_value(const std::vector<uint8_t>& symbols, std::string_view where) {
  // An explicit stack: files may nest deeper than the machine's.
  std::vector<OpenOperator> open;
  std::optional<int64_t> value;
  for (size_t i = 0; i < symbols.size(); ++i) {
    const uint8_t symbol = symbols[i];
    check(!value, where, "token ", i + 1, " follows the end of the tree");
    int64_t result = 0;
    if (is_operator(symbol)) {
      open.push_back({symbol, {}});
      continue;
    }
    if (is_digit(symbol)) {
      result = symbol - 1;
    } else {
      check(symbol == kClose, where, "token ", i + 1, " is no digit, operator or closing bracket");
      check(!open.empty(), where, "token ", i + 1, " closes a bracket that is not open");
      check(!open.back().arguments.empty(), where, "token ", i + 1,
            " closes an operator without arguments");
      result = apply(open.back().op, std::move(open.back().arguments));
      open.pop_back();
    }
    if (open.empty()) {
      value = result;
    } else {
      open.back().arguments.push_back(result);
    }
  }
  check(open.empty(), where, open.size(), " brackets are not closed at the end of the tree");
  check(value.has_value(), where, "the tree is empty");
  return *value;
}

std::string listops_text(const std::vector<uint8_t>& symbols) {
  // An application's opening parentheses stand before its operator, one for each argument and one
  // for the closing bracket, so arguments are counted first.
  std::vector<int64_t> arguments(symbols.size(), 0);
  std::vector<size_t> open;
  for (size_t i = 0; i < symbols.size(); ++i) {
    if (symbols[i] == kClose && !open.empty()) open.pop_back();
    if (symbols[i] != kClose) {
      if (!open.empty()) ++arguments[open.back()];
      if (is_operator(symbols[i])) open.push_back(i);
      continue;
    }
  }
  std::string text;
  std::vector<size_t> inside;
  const auto end_item = [&] { text += inside.empty() ? "" : " )"; };
  for (size_t i = 0; i < symbols.size(); ++i) {
    if (!text.empty()) text += ' ';
    if (is_operator(symbols[i])) {
      for (int64_t k = 0; k <= arguments[i]; ++k) text += "( ";
      text += kWords[symbols[i]];
      inside.push_back(i);
    } else if (symbols[i] == kClose) {
      text += "] )";
      if (!inside.empty()) inside.pop_back();
      end_item();
    } else {
      text += kWords[symbols[i] < kWords.size() ? symbols[i] : kUnknown];
      end_item();
    }
  }
  return text;
}

std::vector<uint8_t> parse_listops(std::string_view text, std::string_view where) {
  constexpr std::string_view kBlank = " \t\r\n\v\f";
  std::vector<uint8_t> symbols;
  size_t position = 0;
  while (true) {
    position = text.find_first_not_of(kBlank, position);
    if (position == std::string_view::npos) return symbols;
    const size_t end = std::min(text.find_first_of(kBlank, position), text.size());
    const std::string_view word = text.substr(position, end - position);
    position = end;
    if (word == "(" || word == ")") continue;
    const auto found = std::find(kWords.begin(), kWords.end(), word == "]" ? "X" : word);
    check(found != kWords.end(), where, "column ", end - word.size() + 1,
          " holds the unknown word \"", word.substr(0, 20),
          "\"; valid are digits, [MIN, [MAX, [MED, [SM, ], ( and )");
    symbols.push_back(static_cast<uint8_t>(found - kWords.begin()));
  }
}

std::vector<int64_t> encode_listops(const std::vector<uint8_t>& symbols, int64_t length) {
  std::vector<int64_t> ids(static_cast<size_t>(length), 0);
  const size_t count = std::min(symbols.size(), ids.size());
  for (size_t i = 0; i < count; ++i) ids[i] = std::min(symbols[i], kUnknown);
  return ids;
}

}  // namespace formwork

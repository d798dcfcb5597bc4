// ListOps, a 10-way classification of nested list operations (Nangia and Bowman 2018; Long Range
// Arena, Tay et al. 2021, arXiv 2011.04006). Everything is a pure function of the seed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/split.h"

namespace formwork {

class Random;

/// Token ids: 0 padding, digits 0..9 -> 1..10, then these.
namespace listops {
inline constexpr uint8_t kMin = 11;
inline constexpr uint8_t kMax = 12;
inline constexpr uint8_t kMed = 13;
inline constexpr uint8_t kSum = 14;
inline constexpr uint8_t kClose = 15;
inline constexpr uint8_t kUnknown = 16;
inline constexpr int64_t kVocabulary = 17;
inline constexpr int64_t kClasses = 10;
/// Known to the evaluator only: they are never generated and have no token id of their own.
inline constexpr uint8_t kFirst = 17;
inline constexpr uint8_t kLast = 18;
}  // namespace listops

struct ListopsOptions {
  int64_t max_depth = 10;     // levels of the tree, the root is level 1
  int64_t max_args = 10;      // arguments of an operator, 2 .. max_args
  int64_t min_length = 500;   // tokens; a tree has strictly more ...
  int64_t max_length = 2000;  // ... and strictly fewer than these
  uint64_t seed = 0;
};

/// Refuses options that no tree can meet, naming them under `where`.
void check_listops(const ListopsOptions& options, std::string_view where);

/// A tree in prefix order, e.g. [MAX 2 7 X, and its value.
struct ListopsSample {
  std::vector<uint8_t> tokens;
  int64_t label = 0;
};

/// One draw of the tree grammar (no bounds): a leaf with probability .75, else an operator with 2
/// to max_args subtrees. Gives up and returns nothing when the tree reaches `limit` tokens.
std::vector<uint8_t> draw_listops_tree(const ListopsOptions& options, int64_t limit,
                                       Random& random);

/// `count` different samples, in the order of generation after a seeded shuffle.
std::vector<ListopsSample> generate_listops(const ListopsOptions& options, int64_t count);

/// Endless samples of one split, each a pure function of (seed, split, index) that is made without
/// the others. A tree's text decides its split, so that no tree is in two; within a split a tree
/// may come again.
class ListopsStream {
 public:
  ListopsStream(const ListopsOptions& options, Split split);
  ListopsSample sample(uint64_t index) const;

 private:
  ListopsOptions options_;
  Split split_;
};

/// Value of a tree in symbols (token ids, or kFirst and kLast). MED is the median's integer part,
/// SM the sum modulo 10. Malformed trees are refused, naming the token's index under `where`.
int64_t listops_value(const std::vector<uint8_t>& symbols, std::string_view where = "listops");

/// The official text: left-nested applications, "( ( ( [MAX 2 ) 7 ) ] )".
std::string listops_text(const std::vector<uint8_t>& symbols);

/// Symbols of a text (official form, or without parentheses). An unknown word is refused with its
/// column (from 1) under `where`.
std::vector<uint8_t> parse_listops(std::string_view text, std::string_view where = "listops");

/// Token ids as a model reads them: cut to `length`, padded with 0, unknown symbols as 16.
std::vector<int64_t> encode_listops(const std::vector<uint8_t>& symbols, int64_t length);

}  // namespace formwork

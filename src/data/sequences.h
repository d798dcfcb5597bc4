// Generated sequence tasks of any length; each example is a pure function of (seed, split, index).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/split.h"

namespace formwork {

class Random;

enum class SequenceKind { copy, reverse, sort, recall, first, addition, markov };

/// The kind called "copy", "reverse", "sort", "recall", "first", "addition" or "markov"; others are
/// refused under `where`.
SequenceKind parse_sequence_kind(std::string_view name, std::string_view where);
std::string_view sequence_kind_name(SequenceKind kind);

struct SequenceOptions {
  SequenceKind kind = SequenceKind::copy;
  /// copy, reverse, sort, first: symbols before the separator; recall: pairs of key and value;
  /// addition: digits of each number; markov: tokens of the input.
  int64_t length = 16;
  int64_t symbols = 16;          // different symbols (recall: keys, and as many values)
  int64_t order = 1;             // markov: tokens of history that matter
  double concentration = 0.5;    // markov: of the Dirichlet rows; small: sharp, large: uniform
  bool reversed_answer = false;  // addition: the sum's last digit first
  uint64_t seed = 0;
};

/// One example for next-token prediction: target[i] follows input[i]; mask[i] is 1 where the
/// target is determined by the task (markov: where the whole history is visible).
struct SequenceSample {
  std::vector<int64_t> input;
  std::vector<int64_t> target;
  std::vector<uint8_t> mask;
};

/// A source of examples.
///   copy, reverse, sort   x1 .. xn SEP answer
///   recall                k1 v1 .. kn vn SEP k v: keys differ, k is one of them
///   first                 x1 .. xn SEP x1: symbols differ
///   addition              a + b = sum, zero-padded to n and n+1 digits
///   markov                x1 x2 ..: x_t ~ table[x_{t-order} .. x_{t-1}], a table per seed with
///                         Dirichlet(concentration) rows; starts uniformly and runs in first
/// Except for markov the content before the answer decides an example's split (see split_of), so
/// that no example is in two; a task with too few different examples for that is refused.
class SequenceSource {
 public:
  explicit SequenceSource(const SequenceOptions& options);

  const SequenceOptions& options() const { return options_; }
  int64_t vocabulary_size() const;
  /// Tokens of every input.
  int64_t length() const;
  SequenceSample sample(Split split, uint64_t index) const;
  /// Markov: nats per token that no model can get below, the mean over the stationary law of the
  /// rows' entropy. Nothing for other kinds and for chains too large to iterate.
  std::optional<double> entropy_rate() const;
  /// Markov: the transition table [symbols^order, symbols]; the oldest token is the most
  /// significant digit of the row.
  const std::vector<double>& transitions() const { return transitions_; }

 private:
  std::vector<int64_t> draw_markov(Random& random) const;

  SequenceOptions options_;
  std::vector<double> transitions_;
};

}  // namespace formwork

// Frequencies of rotary positions and the ways to stretch them to longer sequences.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace formwork {

class OptionSet;

struct RotaryOptions {
  std::string style = "half";
  double base = 10000.0;
  std::optional<int64_t> rotary_dim;
  int64_t columns = 0;
  std::string scaling = "none";
  double factor = 1.0;
  std::optional<int64_t> original_length;
  double beta_fast = 32.0, beta_slow = 1.0;
  std::optional<double> mscale, mscale_all_dim, attention_factor;
  double low = 1.0, high = 4.0;
  void describe(OptionSet& o);
};

/// The angle a position adds to pair c = 0 .. dim/2-1: base^(-2c/dim) changed by `scaling`.
/// `length` is the present length of the sequence; only scaling dynamic looks at it.
std::vector<double> inverse_frequencies(const RotaryOptions& options, int64_t dim, int64_t length);

/// The factor A on cosines and sines: 1, but for yarn and where attention_factor is given.
double attention_factor(const RotaryOptions& options);

}  // namespace formwork

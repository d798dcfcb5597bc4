#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/options.h"
#include "methods/position/rotary.h"

namespace formwork {
namespace {

constexpr double kTurn = 2.0 * std::numbers::pi;

std::vector<double> plain(double base, int64_t dim) {
  std::vector<double> frequencies;
  for (int64_t c = 0; c < dim / 2; ++c)
    frequencies.push_back(std::pow(base, -2.0 * static_cast<double>(c) / static_cast<double>(dim)));
  return frequencies;
}

/// The base whose slowest wave is `stretch` times as long and whose fastest stays. A single pair
/// has no slowest wave to stretch.
double stretched_base(double base, double stretch, int64_t dim) {
  const double d = static_cast<double>(dim);
  return dim > 2 ? base * std::pow(stretch, d / (d - 2.0)) : base;
}

void scale_yarn(const RotaryOptions& o, int64_t dim, std::vector<double>& frequencies) {
  const double d = static_cast<double>(dim);
  const double length = static_cast<double>(*o.original_length);
  // The pair that turns `rotations` times over the original length.
  const auto pair = [&](double rotations) {
    return d * std::log(length / (rotations * kTurn)) / (2.0 * std::log(o.base));
  };
  const double low = std::max(std::floor(pair(o.beta_fast)), 0.0);
  double high = std::min(std::ceil(pair(o.beta_slow)), d - 1.0);
  if (low == high) high += 0.001;
  for (size_t c = 0; c < frequencies.size(); ++c) {
    const double ramp = std::clamp((static_cast<double>(c) - low) / (high - low), 0.0, 1.0);
    frequencies[c] = frequencies[c] / o.factor * ramp + frequencies[c] * (1.0 - ramp);
  }
}

void scale_llama3(const RotaryOptions& o, std::vector<double>& frequencies) {
  const double length = static_cast<double>(*o.original_length);
  for (double& g : frequencies) {
    const double wavelength = kTurn / g;
    if (wavelength < length / o.high) continue;
    if (wavelength > length / o.low) {
      g /= o.factor;
      continue;
    }
    const double u = (length / wavelength - o.low) / (o.high - o.low);
    g = (1.0 - u) * g / o.factor + u * g;
  }
}

}  // namespace

void RotaryOptions::describe(OptionSet& o) {
  o.add("style", style, "pairs (c, c + d/2), as Llama does, or (2c, 2c + 1), as the paper does",
        one_of({"half", "interleaved"}));
  o.add("base", base, "the slowest wave has a length of about 2 pi times this", above(1));
  o.add("rotary_dim", rotary_dim, "channels of a head that turn, the first ones; default: all",
        at_least(2));
  o.add("columns", columns,
        "columns of a grid: the first half of the channels turns by row p / columns, the second by "
        "column p % columns; 0: a line",
        at_least(0));
  o.add("scaling", scaling, "how frequencies are changed for sequences longer than trained on",
        one_of({"none", "linear", "ntk", "dynamic", "yarn", "llama3"}));
  o.add("factor", factor, "how many times longer", at_least(1));
  o.add("original_length", original_length, "length trained on (dynamic, yarn, llama3)",
        at_least(1));
  o.add("beta_fast", beta_fast, "yarn: pairs that turn more often than this stay", above(0));
  o.add("beta_slow", beta_slow, "yarn: pairs that turn less often are fully stretched", above(0));
  o.add("mscale", mscale, "yarn: numerator's weight in the factor on the scores", at_least(0));
  o.add("mscale_all_dim", mscale_all_dim, "yarn: denominator's weight in it", at_least(0));
  o.add("attention_factor", attention_factor, "replaces the factor on cosines and sines", above(0));
  o.add("low", low, "llama3: turns below which a pair is fully stretched", above(0));
  o.add("high", high, "llama3: turns above which a pair stays", above(0));
  o.require(
      "rotary_dim", [this] { return !rotary_dim || *rotary_dim % 2 == 0; }, "must be even");
  o.require(
      "original_length",
      [this] {
        const bool needed = scaling == "dynamic" || scaling == "yarn" || scaling == "llama3";
        return !needed || original_length.has_value();
      },
      "is needed by scaling dynamic, yarn and llama3");
  o.require(
      "mscale", [this] { return mscale.has_value() == mscale_all_dim.has_value(); },
      "goes with mscale_all_dim: give both or neither");
  o.require(
      "high", [this] { return high > low; }, "must be above low");
  o.require(
      "beta_fast", [this] { return beta_fast >= beta_slow; }, "must be at least beta_slow");
}

std::vector<double> inverse_frequencies(const RotaryOptions& o, int64_t dim, int64_t length) {
  double base = o.base;
  if (o.scaling == "ntk") {
    base = stretched_base(base, o.factor, dim);
  } else if (o.scaling == "dynamic") {
    const double original = static_cast<double>(*o.original_length);
    const double present = std::max(static_cast<double>(length), original);
    base = stretched_base(base, o.factor * present / original - (o.factor - 1.0), dim);
  }
  std::vector<double> frequencies = plain(base, dim);
  if (o.scaling == "linear")
    for (double& g : frequencies) g /= o.factor;
  if (o.scaling == "yarn") scale_yarn(o, dim, frequencies);
  if (o.scaling == "llama3") scale_llama3(o, frequencies);
  return frequencies;
}

double attention_factor(const RotaryOptions& o) {
  if (o.attention_factor) return *o.attention_factor;
  if (o.scaling != "yarn" || o.factor <= 1.0) return 1.0;
  const auto weighted = [&](double weight) { return 0.1 * weight * std::log(o.factor) + 1.0; };
  if (o.mscale) return weighted(*o.mscale) / weighted(*o.mscale_all_dim);
  return weighted(1.0);
}

}  // namespace formwork

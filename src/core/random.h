// Random numbers that are a pure function of a seed and a purpose, the same on every machine.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace formwork {

/// A small counter-based generator (SplitMix64, Steele et al. 2014) for data and permutations.
/// Its numbers depend on the key alone, not on the platform or on libtorch.
class Random {
 public:
  explicit Random(uint64_t key) : state_(key) {}
  uint64_t bits();
  /// Uniform in [0, 1), 53 bits.
  double uniform();
  /// Uniform integer in [low, high], without modulo bias.
  int64_t integer(int64_t low, int64_t high);
  /// Standard normal (Box-Muller).
  double normal();

 private:
  uint64_t state_;
};

/// A named stream: `stream.child("dropout").child(step)` never shares numbers with a sibling, so
/// that adding a method or a purpose does not shift another's numbers.
class RandomStream {
 public:
  explicit RandomStream(uint64_t seed) : key_(seed) {}
  RandomStream child(std::string_view purpose) const;
  RandomStream child(uint64_t index) const;
  uint64_t key() const { return key_; }
  Random random() const { return Random(key_); }

 private:
  uint64_t key_;
};

/// The permutation of 0..n-1 that belongs to the stream (Fisher-Yates).
std::vector<int64_t> permutation(int64_t n, const RandomStream& stream);

}  // namespace formwork

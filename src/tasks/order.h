// Which item stands where: endless passes over finite data, and samples of fixed sets.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/random.h"

namespace formwork {

/// Endless passes over n items, each in an order of its own: item `at(index)` is a pure function
/// of the stream and the index. Keeps the order of one pass, so indices are best asked in sequence.
class EpochOrder {
 public:
  EpochOrder(int64_t items, const RandomStream& stream) : items_(items), stream_(stream) {}
  int64_t at(int64_t index);

 private:
  int64_t items_;
  RandomStream stream_;
  int64_t epoch_ = -1;
  std::vector<int64_t> order_;
};

/// Item `index` of `count` that are spread evenly over `total` (count <= total).
inline int64_t spread(int64_t index, int64_t count, int64_t total) {
  return index * total / count;
}

/// Refuses validation items that are not there.
void check_items(int64_t first, int64_t count, int64_t total);

/// A short hash of bytes, for fingerprints.
std::string hash_text(std::string_view bytes);

}  // namespace formwork

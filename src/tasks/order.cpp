#include "tasks/order.h"

#include <iomanip>
#include <sstream>

#include "core/error.h"

namespace formwork {

int64_t EpochOrder::at(int64_t index) {
  const int64_t epoch = index / items_;
  if (epoch != epoch_) {
    order_ = permutation(items_, stream_.child(static_cast<uint64_t>(epoch)));
    epoch_ = epoch;
  }
  return order_[static_cast<size_t>(index % items_)];
}

void check_items(int64_t first, int64_t count, int64_t total) {
  check(first >= 0 && count > 0 && first + count <= total, "validation", "items ", first, " to ",
        first + count - 1, " were asked for, but there are ", total);
}

std::string hash_text(std::string_view bytes) {
  std::ostringstream out;
  out << std::hex << std::setw(16) << std::setfill('0') << RandomStream(0).child(bytes).key();
  return out.str();
}

}  // namespace formwork

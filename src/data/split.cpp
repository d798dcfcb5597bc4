#include "data/split.h"

#include <string_view>

#include "core/random.h"

namespace formwork {

std::string_view split_name(Split split) {
  switch (split) {
    case Split::train:
      return "train";
    case Split::validation:
      return "validation";
    default:
      return "test";
  }
}

Split split_of(std::string_view content) {
  const uint64_t hash = RandomStream(0x73706c6974).child(content).key();
  const uint64_t remainder = hash % 24;
  return remainder == 0 ? Split::validation : remainder == 1 ? Split::test : Split::train;
}

}  // namespace formwork

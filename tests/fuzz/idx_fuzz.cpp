// fuzz-sources: src/core/random.cpp src/data/calendar.cpp src/data/check.cpp
// fuzz-sources: src/data/delimited.cpp src/data/file.cpp src/data/images.cpp src/data/listops.cpp
// fuzz-sources: src/data/listops_file.cpp src/data/problem.cpp src/data/split.cpp
// fuzz-sources: src/data/table.cpp src/data/text.cpp
// fuzz-libraries: z
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/error.h"
#include "data/check.h"
#include "data/images.h"

using namespace formwork;

// Any bytes are read, or refused with an Error, and something is said about them by `data check`.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    const IdxArray array = parse_idx(bytes, "input");
    uint64_t claimed = 1;
    for (const int64_t extent : array.shape) claimed *= static_cast<uint64_t>(extent);
    if (claimed != array.bytes.size()) __builtin_trap();
  } catch (const Error&) {
  }
  try {
    Images images;
    parse_cifar10(bytes, "input", images);
  } catch (const Error&) {
  }
  if (check_bytes(bytes, "input").empty()) __builtin_trap();
  return 0;
}

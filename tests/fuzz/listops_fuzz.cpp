// fuzz-sources: src/core/random.cpp src/data/delimited.cpp src/data/file.cpp src/data/listops.cpp
// fuzz-sources: src/data/listops_file.cpp src/data/problem.cpp src/data/split.cpp
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "data/listops_file.h"

using namespace formwork;

// Any text is read, or refused with an Error; what is read survives being written.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  std::vector<Finding> findings;
  Problems problems(&findings);
  try {
    for (const auto& sample :
         parse_listops_tsv(text, "input", problems, ListopsTrust::everything)) {
      if (parse_listops(listops_text(sample.tokens)) != sample.tokens) __builtin_trap();
    }
  } catch (const Error&) {
  }
  try {
    listops_value(parse_listops(text));
  } catch (const Error&) {
  }
  return 0;
}

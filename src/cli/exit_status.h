// A verb that ends with a code of its own without an error sentence.
#pragma once

#include <CLI/CLI.hpp>

namespace formwork {

/// Ends the program with `code` after a verb has done and said all it had to.
inline void end_with(int code) {
  if (code != 0) throw CLI::RuntimeError(code);
}

}  // namespace formwork

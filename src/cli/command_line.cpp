#include "cli/verbs.h"

namespace formwork {

std::vector<std::string>& command_line() {
  static std::vector<std::string> given;
  return given;
}

}  // namespace formwork

// Starts several processes of this program on one machine.
#pragma once

#include <string>
#include <vector>

namespace formwork {

/// Runs `arguments` (the program first) n times as one group and waits. When one process dies the
/// others are ended and one sentence says which and how. Returns the exit code of the work.
int run_processes(int n, const std::vector<std::string>& arguments);

}  // namespace formwork

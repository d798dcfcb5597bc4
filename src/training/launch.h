// Starts several processes of this program on one machine (`formwork train --processes 2`).
#pragma once

#include <string>
#include <vector>

namespace formwork {

/// A process that run_processes started leaves with this code, saying nothing, when it ends because
/// another one died: run_processes has seen which and how, and tells.
constexpr int kOtherProcessDied = 75;

/// The path of the running program, for starting it again.
std::string this_program();

/// Whether run_processes started this process.
bool started_by_launcher();

/// Runs this program with `arguments` (the program's name first) n times as one group, with the
/// variables that Processes reads, over a free port of the loopback interface, and waits.
/// Process 0 keeps standard input, output and error; what the others write on standard error
/// appears with "[process k] " before each line, their standard output is dropped. OMP_NUM_THREADS
/// becomes the number of processors / n where it is not set. SIGINT and SIGTERM go on to all.
/// When a process dies the others get SIGTERM, 10 s later SIGKILL, and a failure says which one
/// died and how (a refusal where it left with code 2). Where process 0 left by itself it has said
/// why, and its exit code is returned; after a signal to this program the exit code of the first
/// to leave otherwise than well; 0 when all is well.
int run_processes(int n, const std::vector<std::string>& arguments);

}  // namespace formwork

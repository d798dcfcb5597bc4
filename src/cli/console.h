// The program's terminal: where verbs show progress and results.
#pragma once

#include <map>
#include <string>

#include "training/run.h"

namespace formwork {

/// Progress on standard error, so that standard output stays for results; quiet shows nothing.
Console make_console(bool quiet);
/// Prints the end of a training: figures, and where its plots are.
void print_outcome(const RunOutcome& outcome, bool json);
/// 0 when the work is complete, 130 after Ctrl-C as shells expect.
int exit_code(const RunOutcome& outcome);
/// One JSON object on standard output.
void print_json(const Value& value);
/// Threads of the tensor library for a recipe; 0 leaves the library's choice.
void use_threads(int64_t threads);
/// Figures as a JSON table.
Value to_table(const std::map<std::string, double>& figures);

}  // namespace formwork

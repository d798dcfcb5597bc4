// The verbs of the program: each file adds one subcommand with its options and example.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace formwork {

void add_train_verb(CLI::App& app);
void add_resume_verb(CLI::App& app);
void add_evaluate_verb(CLI::App& app);
void add_generate_verb(CLI::App& app);
void add_methods_verb(CLI::App& app);
void add_data_verb(CLI::App& app);
void add_bench_verb(CLI::App& app);
void add_inspect_verb(CLI::App& app);

/// The command line as it was given, set by main; `train --processes` starts copies of it.
std::vector<std::string>& command_line();

}  // namespace formwork

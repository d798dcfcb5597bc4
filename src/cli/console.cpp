#include "cli/console.h"

#include <ATen/Parallel.h>
#include <unistd.h>

#include <cstdio>

#include "formats/json.h"

namespace formwork {

Console make_console(bool quiet) {
  Console console;
  console.style = ProgressStyle::of(STDERR_FILENO);
  if (quiet) return console;
  console.write = [](std::string_view text) {
    std::fwrite(text.data(), 1, text.size(), stderr);
    std::fflush(stderr);
  };
  return console;
}

Value to_table(const std::map<std::string, double>& figures) {
  Value table{Table{}};
  for (const auto& [name, value] : figures) table[name] = Value(value);
  return table;
}

void print_json(const Value& value) {
  std::printf("%s\n", write_json(value, 2).c_str());
}

void print_outcome(const RunOutcome& outcome, bool json) {
  if (outcome.folder.empty()) return;  // another process tells
  if (json) {
    Value table = to_table(outcome.metrics);
    table["folder"] = Value(outcome.folder);
    table["reason"] = Value(outcome.reason);
    table["steps"] = Value(outcome.progress.step);
    table["tokens"] = Value(outcome.progress.tokens);
    table["seconds"] = Value(outcome.progress.seconds);
    print_json(table);
    return;
  }
  std::printf("%s after %lld steps, %s tokens, %s\n", outcome.reason.c_str(),
              static_cast<long long>(outcome.progress.step),
              count_text(outcome.progress.tokens).c_str(),
              duration_text(outcome.progress.seconds).c_str());
  for (const auto& [name, value] : outcome.metrics)
    std::printf("  %-22s %.5g\n", name.c_str(), value);
  std::printf(
      "curves      %s/report.html\nnumbers     %s/metrics.jsonl\ncheckpoint  "
      "%s/checkpoints/step-%lld\n",
      outcome.folder.c_str(), outcome.folder.c_str(), outcome.folder.c_str(),
      static_cast<long long>(outcome.progress.step));
  if (!outcome.complete) std::printf("go on with  formwork resume %s\n", outcome.folder.c_str());
}

int exit_code(const RunOutcome& outcome) {
  return outcome.complete ? 0 : 130;
}

void use_threads(int64_t threads) {
  if (threads > 0) at::set_num_threads(static_cast<int>(threads));
}

}  // namespace formwork

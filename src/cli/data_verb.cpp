#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>

#include "cli/exit_status.h"
#include "cli/verbs.h"
#include "data/check.h"
#include "tasks/task.h"

namespace formwork {
namespace {

struct DataRequest {
  std::string task, folder, checked;
  int64_t items = 10000;
  uint64_t seed = 1;
  std::vector<std::string> settings;
};

/// The task's options with "key=value" or "task.key=value" applied.
Choice<Task> configure(const DataRequest& request) {
  Choice<Task> choice(request.task);
  choice.select(request.task, "data");
  Value table{Table{}};
  for (const std::string& setting : request.settings) {
    const bool prefixed = setting.rfind("task.", 0) == 0;
    set_by_path(table, prefixed ? setting.substr(5) : setting);
  }
  OptionSet options;
  choice.options().describe(options);
  options.read(table, "task");
  return choice;
}

void write(const DataRequest& request) {
  check(!request.task.empty(), "data",
        "needs a task and --to FOLDER, or the word check and a path; see formwork data --help");
  check(!request.folder.empty(), "data", "needs --to FOLDER for what the generator of '",
        request.task, "' makes");
  check(request.items > 0, "data", "--items is ", request.items, "; valid: at least 1");
  TaskSite site;
  site.random = RandomStream(request.seed).child("data");
  const auto task = configure(request).make(site);
  std::error_code error;
  std::filesystem::create_directories(request.folder, error);
  if (error) fail(request.folder, "cannot be made: ", error.message());
  const auto start = std::chrono::steady_clock::now();
  task->write_data(request.folder, request.items);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  std::printf("%lld training items of %s and their validation and test parts in %s (%.1f s)\n",
              static_cast<long long>(request.items), request.task.c_str(), request.folder.c_str(),
              took.count());
}

int look(const std::string& path) {
  int64_t problems = 0;
  for (const Finding& finding : check_path(path)) {
    std::printf("%s: %s\n", finding.place.text().c_str(), finding.what.c_str());
    problems += finding.severity == Severity::problem;
  }
  if (problems > 0)
    std::printf("%lld problem%s\n", static_cast<long long>(problems), problems == 1 ? "" : "s");
  return problems > 0 ? 2 : 0;
}

}  // namespace

void add_data_verb(CLI::App& app) {
  const auto request = std::make_shared<DataRequest>();
  CLI::App* verb =
      app.add_subcommand("data", "write what a task's generator makes, or check data files");
  verb->add_option("task", request->task, "a task with a generator: listops or sequence");
  verb->add_option("--to", request->folder, "folder that the files go to");
  verb->add_option("--items", request->items,
                   "training items; a tenth of that for validation and for test");
  verb->add_option("--seed", request->seed, "decides which items");
  verb->add_option("--set", request->settings, "KEY=VALUE, an option of the task; may be repeated")
      ->take_all()
      ->allow_extra_args(false);
  CLI::App* checker = verb->add_subcommand(
      "check", "read a file or folder: what it holds, what is wrong and where; 2 if anything is");
  checker->add_option("path", request->checked, "a file or folder")->required();
  verb->footer(
      "Examples:\n"
      "  formwork data listops --to data/listops --items 96000 --set length=2000\n"
      "  formwork data sequence --to data/addition --set problem=addition --set digits=3\n"
      "  formwork data check data/listops");
  checker->footer(
      "Examples:\n"
      "  formwork data check data/ett/ETTh1.csv\n"
      "  formwork data check data/listops");
  verb->callback([request, checker] {
    if (checker->parsed())
      end_with(look(request->checked));
    else
      write(*request);
  });
}

}  // namespace formwork

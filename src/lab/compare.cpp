#include "lab/compare.h"

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "formats/atomic_file.h"
#include "formats/json.h"
#include "lab/figures.h"
#include "lab/live_table.h"
#include "lab/report.h"
#include "lab/runner.h"
#include "lab/summary.h"
#include "lab/tables.h"
#include "lab/watch.h"
#include "training/launch.h"
#include "training/machine.h"

namespace formwork {
namespace {

namespace fs = std::filesystem;

constexpr auto kWriteEvery = std::chrono::seconds(20);

/// A word that a POSIX shell takes for what it is.
std::string shell_word(const std::string& word) {
  const bool plain = !word.empty() && std::all_of(word.begin(), word.end(), [](char c) {
    return isalnum(static_cast<unsigned char>(c)) ||
           std::string("_-./+:=,").find(c) != std::string::npos;
  });
  if (plain) return word;
  std::string quoted = "'";
  for (const char c : word) quoted += c == '\'' ? "'\\''" : std::string(1, c);
  return quoted + "'";
}

int64_t usable_cores() {
  return std::max<int64_t>(
      1, static_cast<int64_t>(number_at(describe_machine(), "cores").value_or(1)));
}

/// What is known so far; measures nothing.
Value summary_so_far(const ComparisonFolder& folder, const MachineShare& share) {
  return summarise(folder, read_json_if_there(folder.file("latency.json")), share.jobs,
                   share.threads);
}

}  // namespace

ComparisonFolder comparison_of(const CompareRequest& request) {
  if (ComparisonFolder::is_one(request.recipe)) {
    check(request.overrides.empty() && request.out.empty() && request.equal.empty(), request.recipe,
          "is a comparison that has begun: --set, --equal and --out are settled");
    return ComparisonFolder::open(request.recipe);
  }
  check(!fs::is_directory(request.recipe), request.recipe,
        "is a folder but no comparison; give a recipe, or a folder that formwork compare made");
  PlanRequest wanted;
  wanted.overrides = request.overrides;
  wanted.seeds = request.seeds;
  wanted.equal = request.equal;
  Plan plan = make_plan(request.recipe, wanted);
  plan.command = request.command;
  const std::string out =
      request.out.empty() ? (fs::path("comparisons") / plan.name).string() : request.out;
  return ComparisonFolder::adopt(out, plan);
}

MachineShare share_machine(int64_t jobs, const Plan& plan) {
  const int64_t cores = usable_cores();
  const auto runs = static_cast<int64_t>(plan.variants.size() * plan.seeds.size());
  MachineShare share;
  const int64_t each = std::max<int64_t>(1, plan.threads);
  share.jobs = std::min(runs, jobs > 0 ? jobs : std::max<int64_t>(1, cores / each));
  share.threads = plan.threads > 0 ? plan.threads : std::max<int64_t>(1, cores / share.jobs);
  return share;
}

Value write_results(const ComparisonFolder& folder, bool latencies, const MachineShare& share) {
  if (latencies) measure_latencies(folder);
  const Value summary = summary_so_far(folder, share);
  write_file_atomically(folder.file("summary.csv"), summary_csv(summary));
  write_file_atomically(folder.file("runs.csv"), runs_csv(summary));
  write_file_atomically(folder.file("summary.md"), summary_markdown(summary));
  write_file_atomically(folder.file("report.html"), comparison_page(summary));
  write_file_atomically(folder.file("summary.json"), write_json(summary, 1) + "\n");
  return summary;
}

bool train_comparison(ComparisonFolder& folder, const CompareRequest& request,
                      const Console& console, Value& summary) {
  folder.lock();
  const MachineShare share = share_machine(request.jobs, folder.plan());
  RunnerOptions options;
  options.jobs = share.jobs;
  options.threads = share.threads;
  options.retry = request.retry;
  std::optional<Watch> watch;
  if (request.watch) {
    watch.emplace(*request.watch, [&] { return comparison_page(summary_so_far(folder, share)); });
    console.write("the report grows at " + watch->address() + "\n");
  }
  bool complete = false;
  {
    LiveTable table(folder.plan(), console);
    Runner runner(folder, options);
    runner.on_event = [&](const RunEvent& event) { table.event(event); };
    auto written = std::chrono::steady_clock::now();
    runner.on_progress = [&](const std::vector<RunProgress>& progress) {
      table.show(progress);
      const auto now = std::chrono::steady_clock::now();
      if (now - written < kWriteEvery) return;
      write_results(folder, false, share);
      written = now;
    };
    complete = runner.run();
  }
  summary = write_results(folder, complete, share);
  return complete;
}

std::string job_list(const ComparisonFolder& folder) {
  const std::string program = shell_word(this_program());
  const std::string here = shell_word(fs::current_path().string());
  const std::string path = shell_word(fs::absolute(folder.path()).lexically_normal().string());
  std::string list;
  for (const RunPlace& run : folder.runs())
    list += "cd " + here + " && " + program + " compare " + path + " --only " +
            shell_word(run.name) + "\n";
  return list;
}

}  // namespace formwork

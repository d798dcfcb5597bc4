#include <CLI/CLI.hpp>
#include <cstdio>

#include "cli/console.h"
#include "cli/exit_status.h"
#include "cli/verbs.h"
#include "formats/atomic_file.h"
#include "lab/compare.h"
#include "lab/figures.h"
#include "lab/runner.h"
#include "lab/tables.h"

namespace formwork {
namespace {

struct CompareCommand {
  CompareRequest compare;
  std::string write_jobs, only;
  bool collect = false, json = false, quiet = false;
};

/// What was typed, so that it can be typed again.
std::string typed() {
  std::string line = "formwork";
  for (size_t i = 1; i < command_line().size(); ++i) {
    const std::string& word = command_line()[i];
    const bool plain = word.find_first_of(" '\"$&|;<>()[]{}*?`\\\n") == std::string::npos;
    line += plain ? " " + word : " '" + word + "'";
  }
  return line;
}

void print_results(const ComparisonFolder& folder, const Value& summary, bool json) {
  if (json) return print_json(summary);
  std::printf("%s\n", summary_text(summary).c_str());
  std::printf("report   %s\ntable    %s\nnumbers  %s, summary.csv, runs.csv\n",
              folder.file("report.html").c_str(), folder.file("summary.md").c_str(),
              folder.file("summary.json").c_str());
}

void print_missing(const ComparisonFolder& folder) {
  for (const RunPlace& run : folder.runs()) {
    const RunStatus status = status_of(run);
    if (status.state == RunState::missing || status.state == RunState::interrupted ||
        status.state == RunState::running)
      std::fprintf(stderr, "%s: %s\n", run.name.c_str(), state_name(status.state));
  }
}

void train_only(const CompareCommand& request, const ComparisonFolder& folder) {
  const RunPlace run = folder.run(request.only);
  const MachineShare share = share_machine(1, folder.plan());
  const RunProgress end = train_one(folder, run, share.threads, request.compare.retry);
  std::printf("%s: %s\n", run.name.c_str(), state_name(end.state));
  if (end.state == RunState::failed || end.state == RunState::diverged)
    std::printf("%s\n", end.failure.c_str());
  end_with(end.state == RunState::interrupted ? 130 : 0);  // a failure is a result
}

void write_jobs(const CompareCommand& request, const ComparisonFolder& folder) {
  const std::string list = job_list(folder);
  if (request.write_jobs == "-") {
    std::printf("%s", list.c_str());
    return;
  }
  write_file_atomically(request.write_jobs, list);
  std::printf("%zu jobs in %s; then: formwork compare %s --collect\n", folder.runs().size(),
              request.write_jobs.c_str(), folder.path().c_str());
}

void compare(const CompareCommand& request) {
  ComparisonFolder folder = comparison_of(request.compare);
  if (!request.write_jobs.empty()) return write_jobs(request, folder);
  if (!request.only.empty()) return train_only(request, folder);
  Value summary;
  if (request.collect) {
    summary = write_results(folder, true, MachineShare{0, 0});
    print_results(folder, summary, request.json);
    print_missing(folder);
    end_with(flag_at(summary, "complete") ? 0 : 1);
    return;
  }
  const bool complete =
      train_comparison(folder, request.compare, make_console(request.quiet), summary);
  print_results(folder, summary, request.json);
  if (complete) return;
  std::fprintf(stderr, "stopped; go on with: formwork compare %s\n", folder.path().c_str());
  end_with(130);
}

void add_options(CLI::App* verb, const std::shared_ptr<CompareCommand>& request) {
  CompareRequest& what = request->compare;
  verb->add_option("recipe", what.recipe,
                   "a recipe with [[variant]] tables, or the folder of a comparison that has begun")
      ->required();
  verb->add_option("--seeds", what.seeds, "trainings of each variant (default 3)")
      ->check(CLI::Range(1, 1000));
  verb->add_option("--jobs", what.jobs,
                   "trainings at a time; default as many as cores, the cores shared among them")
      ->check(CLI::Range(0, 4096));
  verb->add_option("--out", what.out, "the comparison's folder; default comparisons/NAME");
  verb->add_option("--equal", what.equal,
                   "what all get the same of: steps, tokens, seconds or flops; default what the "
                   "recipe's budget counts")
      ->check(CLI::IsMember({"steps", "tokens", "seconds", "flops"}));
  verb->add_option("--set", what.overrides,
                   "KEY=VALUE, changes one key of baseline and variants; may be repeated")
      ->take_all()
      ->allow_extra_args(false);
  verb->add_option("--write-jobs", request->write_jobs,
                   "train nothing; write one shell command a run to this file, - for the screen");
  verb->add_option("--only", request->only, "train this run alone, such as baseline/seed-1");
  verb->add_option("--watch", what.watch,
                   "port: serve the report to this machine's browsers while it grows")
      ->check(CLI::Range(0, 65535));
  verb->add_flag("--collect", request->collect,
                 "train nothing; gather what the runs have made, and name those that are missing");
  verb->add_flag("--retry", what.retry, "train runs again that failed");
  verb->add_flag("--json", request->json, "the summary as JSON on standard output");
  verb->add_flag("--quiet", request->quiet, "no progress");
}

}  // namespace

void add_compare_verb(CLI::App& app) {
  const auto request = std::make_shared<CompareCommand>();
  CLI::App* verb =
      app.add_subcommand("compare", "train variants of a recipe on equal terms and compare them");
  add_options(verb, request);
  verb->footer(
      "Started again after any end, it goes on where it was.\n"
      "Examples:\n"
      "  formwork compare recipes/norms.toml\n"
      "  formwork compare recipes/norms.toml --equal flops --seeds 5 --out comparisons/norms-5\n"
      "  formwork compare recipes/norms.toml --write-jobs jobs.txt     then e.g. parallel < "
      "jobs.txt\n"
      "  formwork compare comparisons/norms --collect");
  verb->callback([request] {
    request->compare.command = typed();
    compare(*request);
  });
}

}  // namespace formwork

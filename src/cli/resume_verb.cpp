#include <CLI/CLI.hpp>

#include "cli/console.h"
#include "cli/exit_status.h"
#include "cli/verbs.h"
#include "training/launch.h"

namespace formwork {
namespace {

struct ResumeRequest {
  std::string folder, from;
  std::vector<std::string> overrides;
  int64_t processes = 1;
  bool json = false, quiet = false;
};

void resume(const ResumeRequest& request) {
  if (request.processes > 1 && !Processes::started()) {
    end_with(run_processes(static_cast<int>(request.processes), command_line()));
    return;
  }
  const std::unique_ptr<Processes> processes = Processes::from_environment();
  const RunOutcome outcome = resume_run(request.folder, request.from, request.overrides, *processes,
                                        make_console(request.quiet || processes->rank() > 0));
  print_outcome(outcome, request.json);
  end_with(exit_code(outcome));
}

}  // namespace

void add_resume_verb(CLI::App& app) {
  const auto request = std::make_shared<ResumeRequest>();
  CLI::App* verb = app.add_subcommand("resume", "go on with a run as if it had never stopped");
  verb->add_option("run", request->folder, "a run folder")->required();
  verb->add_option("--from", request->from, "a checkpoint folder; default the newest whole one");
  verb->add_option("--set", request->overrides, "KEY=VALUE, changes one key; may be repeated")
      ->take_all()
      ->allow_extra_args(false);
  verb->add_option("--processes", request->processes, "data-parallel processes on this machine")
      ->check(CLI::Range(1, 1024));
  verb->add_flag("--json", request->json, "the outcome as JSON on standard output");
  verb->add_flag("--quiet", request->quiet, "no progress");
  verb->footer(
      "Examples:\n"
      "  formwork resume runs/play\n"
      "  formwork resume runs/play --set train.budget.steps=4000      train longer\n"
      "  formwork resume runs/play --from runs/play/checkpoints/step-500");
  verb->callback([request] { resume(*request); });
}

}  // namespace formwork

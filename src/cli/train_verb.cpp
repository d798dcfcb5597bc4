#include <CLI/CLI.hpp>

#include "cli/console.h"
#include "cli/exit_status.h"
#include "cli/verbs.h"
#include "training/launch.h"

namespace formwork {
namespace {

struct TrainRequest {
  std::string recipe, out;
  std::vector<std::string> overrides;
  int64_t processes = 1;
  bool json = false, quiet = false, show = false;
};

void train(const TrainRequest& request) {
  if (request.processes > 1 && !Processes::started()) {
    Recipe::read(request.recipe,
                 request.overrides);  // a mistake is told once, not by every process
    end_with(run_processes(static_cast<int>(request.processes), command_line()));
    return;
  }
  Recipe recipe = Recipe::read(request.recipe, request.overrides);
  if (request.show) {
    std::printf("%s", recipe.resolved().c_str());
    return;
  }
  use_threads(recipe.train.threads);
  const std::unique_ptr<Processes> processes = Processes::from_environment();
  const RunOutcome outcome = train_run(recipe, request.out, *processes,
                                       make_console(request.quiet || processes->rank() > 0));
  print_outcome(outcome, request.json);
  end_with(exit_code(outcome));
}

}  // namespace

void add_train_verb(CLI::App& app) {
  const auto request = std::make_shared<TrainRequest>();
  CLI::App* verb = app.add_subcommand("train", "train a recipe into a run folder");
  verb->add_option("recipe", request->recipe, "a TOML file, see recipes/")->required();
  verb->add_option("--out", request->out, "the run folder, new or empty; default runs/NAME-DATE");
  verb->add_option("--set", request->overrides, "KEY=VALUE, changes one key; may be repeated")
      ->take_all()
      ->allow_extra_args(false);
  verb->add_option("--processes", request->processes, "data-parallel processes on this machine")
      ->check(CLI::Range(1, 1024));
  verb->add_flag("--show", request->show, "print the resolved recipe and train nothing");
  verb->add_flag("--json", request->json, "the outcome as JSON on standard output");
  verb->add_flag("--quiet", request->quiet, "no progress");
  verb->footer(
      "Examples:\n"
      "  formwork train recipes/quickstart.toml\n"
      "  formwork train recipes/quickstart.toml --set model.mixer.kind=local --set "
      "model.mixer.window=32\n"
      "  formwork train recipes/shakespeare.toml --out runs/play --processes 2\n"
      "  formwork train recipes/quickstart.toml --show        every key with its value\n"
      "More machines: start one process each with torchrun's or Slurm's variables set.");
  verb->callback([request] { train(*request); });
}

}  // namespace formwork

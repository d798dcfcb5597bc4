#include <CLI/CLI.hpp>

#include "cli/console.h"
#include "cli/verbs.h"
#include "training/evaluation.h"

namespace formwork {
namespace {

struct EvaluateRequest {
  std::string run;
  std::vector<std::string> overrides;
  int64_t items = 0, batch = 0;
  bool json = false;
};

void evaluate_verb(const EvaluateRequest& request) {
  LoadedRun run = load_run(request.run, request.overrides);
  use_threads(run.recipe.train.threads);
  EvaluationRequest what;
  what.items = request.items;
  what.batch = request.batch > 0 ? request.batch : run.recipe.train.evaluate.batch;
  what.precision = run.recipe.train.precision;
  const std::unique_ptr<Processes> processes = Processes::from_environment();
  const std::map<std::string, double> figures = evaluate(*run.model, *run.task, what, *processes);
  if (processes->rank() > 0) return;
  if (request.json) {
    Value table = to_table(figures);
    table["checkpoint"] = Value(run.checkpoint);
    table["step"] = Value(run.step);
    print_json(table);
    return;
  }
  std::printf("%s\n", run.checkpoint.c_str());
  for (const auto& [name, value] : figures) std::printf("  %-22s %.6g\n", name.c_str(), value);
}

}  // namespace

void add_evaluate_verb(CLI::App& app) {
  const auto request = std::make_shared<EvaluateRequest>();
  CLI::App* verb = app.add_subcommand("evaluate", "measure a trained model on validation data");
  verb->add_option("run", request->run, "a run folder (its best checkpoint) or a checkpoint folder")
      ->required();
  verb->add_option("--set", request->overrides, "KEY=VALUE, changes one key of the run's recipe")
      ->take_all()
      ->allow_extra_args(false);
  verb->add_option("--items", request->items, "validation items used; 0 = all")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 53));
  verb->add_option("--batch", request->batch, "items a batch; 0 = as in training")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 53));
  verb->add_flag("--json", request->json, "figures as JSON");
  verb->footer(
      "Examples:\n"
      "  formwork evaluate runs/play\n"
      "  formwork evaluate runs/play/checkpoints/step-500 --json\n"
      "  formwork evaluate runs/play --set task.length=512      longer than in training");
  verb->callback([request] { evaluate_verb(*request); });
}

}  // namespace formwork

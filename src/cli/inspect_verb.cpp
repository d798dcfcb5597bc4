#include <CLI/CLI.hpp>
#include <filesystem>

#include "cli/console.h"
#include "cli/verbs.h"
#include "training/inspection.h"

namespace formwork {
namespace {

struct InspectRequest {
  std::string run, out;
  std::vector<std::string> probes, overrides;
  int64_t batches = 1, items = 16;
  bool json = false;
};

/// The parameters that training began with: the recipe and its seed give them again.
std::vector<Tensor> first_parameters(LoadedRun& run) {
  Model model(run.recipe.model, run.task->form(), static_cast<uint64_t>(run.recipe.train.seed));
  model.to(run.model->type());
  std::vector<Tensor> all;
  for (const Parameter& p : model.parameters()) all.push_back(p.tensor.detach());
  return all;
}

void inspect_verb(const InspectRequest& request) {
  // A wrong name is told before the work begins.
  bool updates = request.probes.empty();
  for (const std::string& probe : request.probes)
    updates = updates || parse_probe(probe, "--probe").traits().updates;
  LoadedRun run = load_run(request.run, request.overrides);
  use_threads(run.recipe.train.threads);
  InspectionRequest what;
  what.probes = request.probes;
  what.batches = request.batches;
  what.items = request.items;
  what.precision = run.recipe.train.precision;
  what.seed = static_cast<uint64_t>(run.recipe.train.seed);
  if (updates) what.before = first_parameters(run);
  what.since = "initialisation";
  const std::vector<ProbeResult> results = inspect(*run.model, *run.task, what);
  const std::string about = join_text("step ", run.step, ", ", request.batches,
                                      request.batches == 1 ? " batch" : " batches", " of ",
                                      request.items, " validation items");
  std::string page;
  if (!request.out.empty()) page = write_inspection(results, request.out, run.checkpoint, about);
  if (request.json) {
    Value table{Table{}};
    table["checkpoint"] = Value(run.checkpoint);
    table["step"] = Value(run.step);
    table["probes"] = inspection_json(results);
    if (!page.empty()) table["page"] = Value(page);
    print_json(table);
    return;
  }
  std::printf("%s: %s\n", run.checkpoint.c_str(), about.c_str());
  for (const ProbeResult& result : results) std::printf("\n%s", inspection_text(result).c_str());
  if (page.empty())
    std::printf("\nplots and pictures: formwork inspect %s --out FOLDER\n", request.run.c_str());
  else
    std::printf("\nplots    %s\nnumbers  %s\n", page.c_str(),
                (std::filesystem::path(request.out) / "inspection.json").c_str());
}

}  // namespace

void add_inspect_verb(CLI::App& app) {
  const auto request = std::make_shared<InspectRequest>();
  CLI::App* verb = app.add_subcommand("inspect", "look inside a trained model with probes");
  verb->add_option("run", request->run, "a run folder (its best checkpoint) or a checkpoint folder")
      ->required();
  verb->add_option("--probe", request->probes,
                   "NAME or NAME:OPTION=VALUE, may be repeated; all where none is named "
                   "(formwork methods probe)")
      ->take_all()
      ->allow_extra_args(false);
  verb->add_option("--set", request->overrides, "KEY=VALUE, changes one key of the run's recipe")
      ->take_all()
      ->allow_extra_args(false);
  verb->add_option("--batches", request->batches, "batches of validation data")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 53));
  verb->add_option("--items", request->items, "items a batch")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 53));
  verb->add_flag("--json", request->json, "everything found as JSON");
  verb->add_option("--out", request->out,
                   "folder for inspection.html (plots and pictures) and inspection.json");
  verb->footer(
      "Examples:\n"
      "  formwork inspect runs/play\n"
      "  formwork inspect runs/play --probe attention_entropy --probe causality --batches 4\n"
      "  formwork inspect runs/play --probe attention_entropy:bound=spectral --json\n"
      "  formwork inspect runs/play --out look          look/inspection.html opens in a browser");
  verb->callback([request] { inspect_verb(*request); });
}

}  // namespace formwork

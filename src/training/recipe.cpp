#include "training/recipe.h"

#include <filesystem>
#include <set>

#include "methods/probe/probe.h"

namespace formwork {
namespace {

/// Probes that exist, have the options named, and give figures that can be recorded.
void check_probes(const ProbeOptions& options, const Value& table) {
  const Value* train = table.find("train");
  const Value* probe = train ? train->find("probe") : nullptr;
  const Value* kinds = probe ? probe->find("kinds") : nullptr;
  const std::string where =
      kinds ? where_of(*kinds, "train.probe.kinds") : std::string("train.probe.kinds");
  std::string recorded;
  for (const std::string& name : Registry<Probe>::instance().names())
    if (Choice<Probe>(name).traits().recorded) recorded += (recorded.empty() ? "" : ", ") + name;
  std::set<std::string> seen;
  for (const std::string& text : options.kinds) {
    const Choice<Probe> choice = parse_probe(text, where);
    check(choice.traits().recorded, where, "'", choice.kind(),
          "' gives no figures to record while training, formwork inspect runs it; ",
          "valid: ", recorded);
    check(seen.insert(choice.kind()).second, where, "names '", choice.kind(), "' twice");
  }
}

}  // namespace

void BudgetOptions::describe(OptionSet& o) {
  o.add("steps", steps, "optimizer steps", at_least(1));
  o.add("tokens", tokens, "tokens seen by the model", above(0));
  o.add("seconds", seconds, "seconds of training, without evaluation", above(0));
  o.add("flops", flops, "floating-point operations, counted as they are dispatched", above(0));
}

void EvaluateOptions::describe(OptionSet& o) {
  o.add("every", every,
        "steps between evaluations; 0 = ten times in a budget of steps, else at the end",
        at_least(0));
  o.add("items", items, "validation items used; 0 = all", at_least(0));
  o.add("batch", batch, "items a batch; 0 = train.batch", at_least(0));
}

void CheckpointOptions::describe(OptionSet& o) {
  o.add("every", every, "steps between checkpoints; 0 = where evaluations are", at_least(0));
  o.add("keep", keep, "newest checkpoints kept", at_least(1));
  o.add("best", best, "keep the best checkpoint by the task's main metric too");
}

void EarlyStopOptions::describe(OptionSet& o) {
  o.add("patience", patience, "evaluations without improvement before training stops; 0 = never",
        at_least(0));
  o.add("min_delta", min_delta, "what counts as an improvement", at_least(0));
}

void ProbeOptions::describe(OptionSet& o) {
  o.add("every", every, "steps between measurements", at_least(1));
  o.add("items", items, "items of validation data, always the first", at_least(1));
  o.add("kinds", kinds,
        "probes, NAME or NAME:OPTION=VALUE (formwork methods probe); none = nothing is measured");
}

void TrainOptions::describe(OptionSet& o) {
  o.add("batch", batch, "items a forward pass", at_least(1));
  o.add("accumulate", accumulate, "forward passes whose gradients make one step", at_least(1));
  o.add("seed", seed, "decides initialisation, data order and dropout", at_least(0));
  o.add("precision", precision,
        "float32; bfloat16: products in bfloat16 with float32 master weights; float64",
        one_of({"float32", "bfloat16", "float64"}));
  o.add("label_smoothing", label_smoothing,
        "the part of each target that all classes or tokens share equally; in the training loss "
        "only, validation stays plain (Szegedy et al. 2015, arXiv 1512.00567)",
        fraction());
  o.add("z_loss", z_loss,
        "factor on the square of the logits' log-sum-exp, which keeps it near 0; in the training "
        "loss only (Chowdhery et al. 2022, arXiv 2204.02311), where 1e-4 is usual",
        at_least(0));
  o.add("activation_checkpointing", activation_checkpointing,
        "block: keep the vectors between blocks only and run each block again in the backward "
        "pass; the same numbers with less memory, in about a third more time",
        one_of({"none", "block"}));
  o.add("log_every", log_every, "steps between lines of metrics.jsonl", at_least(1));
  o.add("prefetch", prefetch, "batches made ahead on another thread; 0 = none", between(0, 64));
  o.add("threads", threads, "threads of the tensor library; 0 = its own choice", at_least(0));
  o.add("device", device,
        "where the model is trained: cpu, or cuda, a GPU; evaluate, generate and inspect then take "
        "the run on the CPU",
        one_of({"cpu", "cuda"}));
  o.add("cuda_graph", cuda_graph,
        "with device cuda: replay forward and backward passes as one launch, where all methods of "
        "the model allow it and activation_checkpointing is none; the CPU has none");
  o.add("start_from", start_from,
        "a folder whose parameters training starts from: a run, a checkpoint, a converted or a "
        "Hugging Face model of the same [model]; none = new ones");
  o.add_group("budget", "when training ends", [this](OptionSet& i) { budget.describe(i); });
  o.add_group("evaluate", "evaluation on validation data",
              [this](OptionSet& i) { evaluate.describe(i); });
  o.add_group("checkpoint", "what is kept on disk",
              [this](OptionSet& i) { checkpoint.describe(i); });
  o.add_group("early_stop", "stopping when nothing improves",
              [this](OptionSet& i) { early_stop.describe(i); });
  o.add_group("probe", "what is measured inside the model while it trains",
              [this](OptionSet& i) { probe.describe(i); });
}

void Recipe::describe(OptionSet& o) {
  o.add("name", name, "names the run folder");
  o.add_choice("task", task, "what is learned, from which data");
  o.add_group("model", "the Transformer", [this](OptionSet& i) { model.describe(i); });
  o.add_choice("optimizer", optimizer, "how gradients become steps");
  o.add_choice("schedule", schedule, "the learning rate over the course of training");
  o.add_list(
      "constraint", "what is enforced on gradients and weights",
      [this](OptionSet& i) {
        // A list element is a choice itself: its keys are read by the choice, kind first.
        i.add_open([this](const Value& given, const std::string& path) {
          Choice<Constraint> choice("none");
          read_choice(choice, given, path);
          constraints.push_back(choice);
        });
      },
      [this] {
        std::vector<std::function<void(OptionSet&)>> all;
        for (Choice<Constraint>& choice : constraints)
          all.emplace_back([&choice](OptionSet& i) { i.add_written(write_choice(choice)); });
        return all;
      },
      [this] { constraints.clear(); });
  o.add_group("train", "the loop", [this](OptionSet& i) { train.describe(i); });
  o.add_raw("variant", variants, "named changes that compare trains beside the baseline");
}

std::shared_ptr<Task> Recipe::make_task() {
  if (!made_task_) {
    TaskSite site;
    site.random = RandomStream(static_cast<uint64_t>(train.seed)).child("data");
    made_task_ = task.make(site);
  }
  return made_task_;
}

void Recipe::settle(const Value& table) {
  const Value none;
  const Value* given = table.find("model");
  const std::shared_ptr<Task> built = make_task();
  model.settle(given ? *given : none, built->form());
  validate(model, built->form());
  if (!table.find("constraint"))
    constraints = {Choice<Constraint>("weight_decay"), Choice<Constraint>("gradient_clipping")};
  const bool own_schedule = optimizer.traits().own_schedule;
  if (own_schedule && !table.find("schedule")) schedule.select("constant", "schedule.kind");
  check(!own_schedule || schedule.traits().constant, "schedule.kind", "'", schedule.kind(),
        "' beside optimizer.kind = '", optimizer.kind(),
        "', which has a schedule of its own; valid: constant");
  if (train.budget.empty()) train.budget.steps = 1000;
  check(!schedule.traits().needs_total || !train.budget.empty(), "train.budget",
        "is empty, but schedule.kind = '", schedule.kind(),
        "' needs an end; give train.budget.steps");
  if (train.evaluate.every == 0 && train.budget.steps)
    train.evaluate.every = std::max<int64_t>(1, *train.budget.steps / 10);
  if (train.checkpoint.every == 0) train.checkpoint.every = train.evaluate.every;
  if (train.evaluate.batch == 0) train.evaluate.batch = train.batch;
  check_probes(train.probe, table);
  const bool classes = built->form().output.kind != OutputForm::Kind::values;
  for (const auto& [key, value] :
       {std::pair("label_smoothing", train.label_smoothing), std::pair("z_loss", train.z_loss)})
    check(classes || value == 0.0, std::string("train.") + key, "found ", value,
          ", but task.kind = '", task.kind(), "' predicts numbers, not classes; valid: 0");
}

Recipe Recipe::from(const Value& table, const std::string& source) {
  check(table.find("task") != nullptr, source,
        "has no [task] table; a recipe needs at least [task] with kind = \"listops\" or another "
        "task");
  Recipe recipe;
  OptionSet set;
  recipe.describe(set);
  set.read(table, "");
  recipe.settle(table);
  return recipe;
}

Recipe Recipe::read(const std::string& path, const std::vector<std::string>& overrides) {
  Value table = read_toml(path);
  for (const std::string& assignment : overrides) set_by_path(table, assignment);
  if (!table.find("name")) table["name"] = Value(std::filesystem::path(path).stem().string());
  return from(table, path);
}

std::string Recipe::resolved() {
  OptionSet set;
  describe(set);
  return "# Every key of this run, defaults written out: training it again gives the same "
         "numbers.\n" +
         write_toml(set.write());
}

}  // namespace formwork

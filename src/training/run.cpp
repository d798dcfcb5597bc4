#include "training/run.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <optional>

#include "core/figure_text.h"
#include "core/memory.h"
#include "formats/json.h"
#include "formats/tensorboard.h"
#include "training/machine.h"
#include "training/model_folder.h"
#include "training/probing.h"
#include "training/report.h"
#include "training/run_folder.h"
#include "training/stop_signal.h"

namespace formwork {
namespace {

namespace fs = std::filesystem;

double wall_seconds() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

/// Keeps the count of evaluations without improvement; part of every checkpoint.
struct Best {
  std::optional<double> value;
  int64_t step = 0;
  int64_t without_gain = 0;
};

/// The loop of one training. Only process 0 has a folder and a console.
class Run {
 public:
  Run(Recipe& recipe, Processes& processes, const Console& console,
      const TensorMap* start = nullptr)
      : recipe_(recipe),
        processes_(processes),
        trainer_(recipe, processes, start),
        metric_(trainer_.task().main_metric()),
        display_(console.style, console.write) {
    if (processes.rank() == 0 && !recipe.train.probe.kinds.empty())
      probing_ = std::make_unique<Probing>(recipe, trainer_.model(), trainer_.task());
  }

  void open(RunFolder folder, int64_t first_step) {
    folder_.emplace(std::move(folder));
    folder_->write_recipe(recipe_.resolved());
    folder_->write_machine(describe_machine());
    events_.emplace(folder_->path(), first_step);
    if (first_step == 0) events_->text(0, "recipe", "```toml\n" + recipe_.resolved() + "```");
  }

  void restore(const Checkpoint& checkpoint);
  RunOutcome go();
  Trainer& trainer() { return trainer_; }
  ProgressDisplay& display() { return display_; }

 private:
  void record(const StepResult& result, const std::map<std::string, double>& evaluation,
              const Measured& measured);
  std::map<std::string, double> evaluate();
  void save();
  void show(const StepResult& result);
  StepResult step();
  bool improved(double value) const;
  std::string stop_reason(bool signal);
  void finish(RunOutcome& outcome);
  Value progress_value() const;

  Recipe& recipe_;
  Processes& processes_;
  Trainer trainer_;
  std::string metric_;
  ProgressDisplay display_;
  std::optional<RunFolder> folder_;
  std::optional<EventWriter> events_;
  std::unique_ptr<Probing> probing_;  // null where nothing is measured
  StopSignal stop_;
  Best best_;
  std::map<std::string, double> last_metrics_;
  int64_t evaluated_at_ = -1;
  int64_t saved_at_ = -1;
  double started_ = wall_seconds();
  double rate_tokens_ = 0.0, rate_seconds_ = 0.0, tokens_per_second_ = 0.0;
};

Value Run::progress_value() const {
  const Progress& progress = trainer_.progress();
  Value value{Table{}};
  value["step"] = Value(progress.step);
  value["tokens"] = Value(progress.tokens);
  value["flops"] = Value(progress.flops);
  value["seconds"] = Value(progress.seconds);
  value["fingerprint"] = Value(trainer_.task().fingerprint());
  // The main metric at the top for the rule that keeps checkpoints, all of them together below.
  for (const auto& [name, figure] : last_metrics_) {
    value[name] = Value(figure);
    value["metrics"][name] = Value(figure);
  }
  if (best_.value) value["best_value"] = Value(*best_.value);
  value["best_step"] = Value(best_.step);
  value["without_gain"] = Value(best_.without_gain);
  return value;
}

double figure_in(const Value& table, const std::string& key) {
  const Value* found = table.find(key);
  if (!found) return 0.0;
  if (const double* real = found->get<double>()) return *real;
  if (const int64_t* integer = found->get<int64_t>()) return static_cast<double>(*integer);
  return 0.0;
}

void expect_same_data(const Value& progress, Task& task, const std::string& where) {
  const Value* saved = progress.find("fingerprint");
  const std::string* text = saved ? saved->get<std::string>() : nullptr;
  check(!text || *text == task.fingerprint(), where, "was trained on other data (", *text,
        ", found ", task.fingerprint(), "); put the same files back where [task] names them");
}

void Run::restore(const Checkpoint& checkpoint) {
  expect_same_data(checkpoint.progress, trainer_.task(), join_text("step-", checkpoint.step));
  Progress progress;
  progress.step = checkpoint.step;
  progress.tokens = figure_in(checkpoint.progress, "tokens");
  progress.flops = figure_in(checkpoint.progress, "flops");
  progress.seconds = figure_in(checkpoint.progress, "seconds");
  trainer_.restore(checkpoint.model, checkpoint.optimizer, progress);
  if (checkpoint.progress.find("best_value"))
    best_.value = figure_in(checkpoint.progress, "best_value");
  best_.step = static_cast<int64_t>(figure_in(checkpoint.progress, "best_step"));
  best_.without_gain = static_cast<int64_t>(figure_in(checkpoint.progress, "without_gain"));
  if (const Value* figures = checkpoint.progress.find("metrics"))
    for (const auto& [name, value] : *figures->get<Table>())
      last_metrics_[name] = figure_in(*figures, name);
  rate_tokens_ = progress.tokens;
  rate_seconds_ = progress.seconds;
  saved_at_ = checkpoint.step;
}

bool Run::improved(double value) const {
  if (!std::isfinite(value)) return false;
  if (!best_.value) return true;
  const double gain = trainer_.progress().step == 0 ? 0.0 : recipe_.train.early_stop.min_delta;
  const bool more = trainer_.task().more_is_better();
  return more ? value > *best_.value + gain : value < *best_.value - gain;
}

std::map<std::string, double> Run::evaluate() {
  last_metrics_ = trainer_.evaluate();
  evaluated_at_ = trainer_.progress().step;
  const double value = last_metrics_.at(metric_);
  if (improved(value)) {
    best_ = {value, trainer_.progress().step, 0};
  } else {
    best_.without_gain += 1;
  }
  if (folder_) {
    std::string text = join_text("step ", trainer_.progress().step);
    for (const auto& [name, figure_value] : last_metrics_)
      text += "  " + name + " " + figure_text(figure_value);
    display_.line(text);
  }
  return last_metrics_;
}

void Run::record(const StepResult& result, const std::map<std::string, double>& evaluation,
                 const Measured& measured) {
  if (!folder_) return;
  const Progress& progress = trainer_.progress();
  Value line{Table{}};
  line["step"] = Value(progress.step);
  line["loss"] = Value(result.loss);
  line["learning_rate"] = Value(result.rate);
  if (result.gradient_norm > 0.0) line["gradient_norm"] = Value(result.gradient_norm);
  for (const auto& [name, value] : evaluation) line[name] = Value(value);
  line["tokens"] = Value(progress.tokens);
  line["flops"] = Value(progress.flops);
  line["seconds"] = Value(progress.seconds);
  line["tokens_per_second"] = Value(tokens_per_second_);
  line["memory_bytes"] = Value(resident_memory());
  if (!measured.empty()) line["probes"] = measured_json(measured);
  folder_->metrics().append(line);
  std::vector<std::pair<std::string, double>> scalars{
      {"training/loss", result.loss},
      {"training/learning_rate", result.rate},
      {"training/gradient_norm", result.gradient_norm},
      {"speed/tokens_per_second", tokens_per_second_}};
  for (const auto& [name, value] : evaluation) scalars.emplace_back("validation/" + name, value);
  for (const auto& [name, values] : measured)
    for (size_t i = 0; i < values.size(); ++i)
      scalars.emplace_back(join_text("probes/", name, "/", i), values[i]);
  events_->scalars(progress.step, scalars);
}

void Run::show(const StepResult& result) {
  if (!folder_) return;
  const Progress& progress = trainer_.progress();
  ProgressState state;
  state.step = progress.step;
  state.total = recipe_.train.budget.steps.value_or(0);
  state.fraction = std::min(1.0, trainer_.fraction());
  state.seconds = wall_seconds() - started_;
  state.loss = result.loss;
  if (tokens_per_second_ > 0.0) state.tokens_per_second = tokens_per_second_;
  state.memory_bytes = resident_memory();
  display_.update(state);
}

void Run::save() {
  const Progress& progress = trainer_.progress();
  if (saved_at_ == progress.step) return;
  saved_at_ = progress.step;
  trainer_.settle_for_saving();
  if (folder_) {
    Checkpoint checkpoint;
    checkpoint.step = progress.step;
    checkpoint.model = trainer_.model_tensors();
    checkpoint.optimizer = trainer_.optimizer_tensors();
    checkpoint.recipe = recipe_.resolved();
    checkpoint.progress = progress_value();
    KeepRule rule;
    rule.last = recipe_.train.checkpoint.keep;
    rule.metric = recipe_.train.checkpoint.best ? metric_ : "";
    rule.lower_is_better = !trainer_.task().more_is_better();
    folder_->save(checkpoint, rule);
  }
  trainer_.go_on_training();
}

std::string Run::stop_reason(bool signal) {
  if (signal) return "stopped by a signal";
  if (trainer_.finished()) return "budget used";
  const int64_t patience = recipe_.train.early_stop.patience;
  if (patience > 0 && best_.without_gain >= patience) return "no improvement";
  return "";
}

/// A training that breaks names the checkpoint to go on from.
StepResult Run::step() {
  try {
    return trainer_.step();
  } catch (const ProcessGone&) {
    throw;  // says all there is to say, and the launcher knows it by its type
  } catch (const Error& error) {
    if (!folder_) throw;
    const std::optional<CheckpointPlace> last = latest_checkpoint(folder_->path());
    display_.finish();
    throw Error(error.fault(), std::string(error.what()) +
                                   (last ? "; last good checkpoint: " + last->path
                                         : "; there is no checkpoint yet in " + folder_->path()));
  }
}

RunOutcome Run::go() {
  const TrainOptions& train = recipe_.train;
  StepResult result;
  RunOutcome outcome;
  outcome.reason = stop_reason(false);  // a finished run may be resumed
  while (outcome.reason.empty()) {
    const bool probed = probing_ && probing_->due(trainer_.progress().step + 1);
    if (probed) probing_->before_step();
    result = step();
    const int64_t step = trainer_.progress().step;
    const Measured measured = probed ? probing_->measure() : Measured{};
    const bool signal = processes_.sum(stop_.requested() ? 1.0 : 0.0) > 0.0;
    const bool last = trainer_.finished();
    std::map<std::string, double> evaluation;
    if (last || (train.evaluate.every > 0 && step % train.evaluate.every == 0))
      evaluation = evaluate();
    outcome.reason = stop_reason(signal);
    if (step % train.log_every == 0 || !evaluation.empty() || probed || !outcome.reason.empty()) {
      const Progress& progress = trainer_.progress();
      const double seconds = progress.seconds - rate_seconds_;
      if (seconds > 0.0) tokens_per_second_ = (progress.tokens - rate_tokens_) / seconds;
      rate_tokens_ = progress.tokens;
      rate_seconds_ = progress.seconds;
      record(result, evaluation, measured);
    }
    show(result);
    const bool due = train.checkpoint.every > 0 && step % train.checkpoint.every == 0;
    // What an evaluation cost no metric yet, the checkpoint must not claim.
    if (evaluation.empty()) last_metrics_.clear();
    if (due || !outcome.reason.empty()) save();
  }
  finish(outcome);
  return outcome;
}

void Run::finish(RunOutcome& outcome) {
  outcome.complete = outcome.reason != "stopped by a signal";
  outcome.progress = trainer_.progress();
  outcome.metrics = last_metrics_;
  if (!folder_) return;
  display_.finish();
  outcome.folder = folder_->path();
  Value summary{Table{}};
  summary["reason"] = Value(outcome.reason);
  summary["complete"] = Value(outcome.complete);
  summary["parameters"] = Value(trainer_.model().parameter_count());
  summary["steps"] = Value(outcome.progress.step);
  summary["tokens"] = Value(outcome.progress.tokens);
  summary["flops"] = Value(outcome.progress.flops);
  summary["seconds"] = Value(outcome.progress.seconds);
  summary["tokens_per_second"] =
      Value(outcome.progress.tokens / std::max(1e-9, outcome.progress.seconds));
  summary["peak_memory_bytes"] = Value(peak_resident_memory());
  summary["main_metric"] = Value(metric_);
  if (best_.value) {
    summary["best_value"] = Value(*best_.value);
    summary["best_step"] = Value(best_.step);
  }
  for (const auto& [name, value] : last_metrics_) summary[name] = Value(value);
  folder_->write_summary(summary);
  write_report(folder_->path());
}

/// The checkpoint of a run that evaluations liked best; the newest whole one without any.
std::string best_checkpoint(const std::string& folder) {
  const std::optional<CheckpointPlace> newest = latest_checkpoint(folder);
  check(newest.has_value(), folder,
        "holds no whole checkpoint; name a run folder made by formwork "
        "train, or a folder checkpoints/step-N");
  const Checkpoint last = load_checkpoint(newest->path);
  const int64_t step = static_cast<int64_t>(figure_in(last.progress, "best_step"));
  for (const CheckpointPlace& place : list_checkpoints(folder))
    if (place.step == step && !checkpoint_damage(place.path)) return place.path;
  return newest->path;
}

Recipe recipe_of(const Checkpoint& checkpoint, const std::string& path,
                 const std::vector<std::string>& overrides) {
  const std::string source = (fs::path(path) / "recipe.toml").string();
  Value table = parse_toml(checkpoint.recipe, source);
  for (const std::string& assignment : overrides) set_by_path(table, assignment);
  return Recipe::from(table, source);
}

}  // namespace

RunOutcome train_run(Recipe& recipe, const std::string& out, Processes& processes,
                     const Console& console) {
  std::optional<RunFolder> folder;
  // Refused before the work begins; and only when the recipe is known to be good, so that a mistake
  // leaves no empty folder.
  TensorMap start;
  const bool begun = !recipe.train.start_from.empty();
  if (begun) start = open_model(recipe.train.start_from).model->named_tensors();
  Run run(recipe, processes, console, begun ? &start : nullptr);
  start.clear();
  run.trainer().check_memory();
  if (processes.rank() == 0)
    run.open(out.empty() ? RunFolder::create_named("runs", recipe.name) : RunFolder::create(out),
             0);
  return run.go();
}

RunOutcome resume_run(const std::string& folder, const std::string& checkpoint,
                      const std::vector<std::string>& overrides, Processes& processes,
                      const Console& console) {
  check(fs::is_directory(folder), folder, "is no folder; name a run folder made by formwork train");
  std::optional<RunFolder> held;
  if (processes.rank() == 0) held.emplace(RunFolder::open(folder));
  processes.barrier();
  std::vector<std::string> damaged;
  std::string path = checkpoint;
  if (path.empty()) {
    const std::optional<CheckpointPlace> newest = latest_checkpoint(folder, &damaged);
    if (!newest && !damaged.empty())
      fail(folder, "holds no whole checkpoint to go on from: ", damaged.front());
    check(newest.has_value(), folder,
          "holds no checkpoint to go on from; start it again with formwork train");
    path = newest->path;
  }
  const Checkpoint from = load_checkpoint(path);
  Recipe recipe = recipe_of(from, path, overrides);
  if (recipe.train.threads > 0) at::set_num_threads(static_cast<int>(recipe.train.threads));
  Run run(recipe, processes, console);
  check(
      !from.optimizer.empty() || run.trainer().optimizer_tensors().empty(), folder,
      "holds no state of an optimizer, as converted models do not, so it cannot be resumed; train "
      "it further by a recipe with train.start_from = \"",
      folder, "\"");
  run.restore(from);
  if (held) {
    for (const std::string& fault : damaged) run.display().line("left out: " + fault);
    held->rewind(from.step);
    run.open(std::move(*held), from.step + 1);
    run.display().line(join_text("going on from step ", from.step));
  }
  return run.go();
}

LoadedRun load_run(const std::string& path, const std::vector<std::string>& overrides) {
  check(fs::is_directory(path), path, "is no folder; name a run folder or a checkpoint in it");
  check(!is_taskless(path), path,
        "holds a model without a task: there is no data to evaluate it on and no tokenizer to "
        "generate text with; valid: a run folder or a checkpoint in it");
  const bool is_checkpoint = fs::exists(fs::path(path) / "model.safetensors");
  const std::string chosen = is_checkpoint ? path : best_checkpoint(path);
  const Checkpoint checkpoint = load_checkpoint(chosen);
  LoadedRun run;
  run.recipe = recipe_of(checkpoint, chosen, overrides);
  run.task = run.recipe.make_task();
  expect_same_data(checkpoint.progress, *run.task, chosen);
  run.model = std::make_shared<Model>(run.recipe.model, run.task->form(),
                                      static_cast<uint64_t>(run.recipe.train.seed));
  if (run.recipe.train.precision == "float64") run.model->to(at::kDouble);
  load_model(*run.model, checkpoint.model, chosen);
  run.model->eval();
  run.step = checkpoint.step;
  run.checkpoint = chosen;
  return run;
}

}  // namespace formwork

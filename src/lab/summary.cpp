#include "lab/summary.h"

#include <algorithm>
#include <ctime>
#include <filesystem>

#include "lab/curves.h"
#include "lab/figures.h"
#include "lab/statistics.h"
#include "training/machine.h"
#include "training/metrics_log.h"

namespace formwork {
namespace {

namespace fs = std::filesystem;

using Figure = std::optional<double>;

std::string date_now() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  ::localtime_r(&now, &local);
  char text[40];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S%z", &local);
  return text;
}

/// One run as far as it came.
struct RunFigures {
  RunPlace place;
  RunStatus status;
  std::vector<Value> lines;
  Value summary{Table{}};
  Figure metric, loss, largest_norm;
  int64_t spikes = 0;
  bool done() const { return status.state == RunState::done; }
};

RunFigures figures_of(const RunPlace& place, const Plan& plan) {
  RunFigures run;
  run.place = place;
  run.status = status_of(place);
  const fs::path folder = place.folder;
  std::error_code error;
  if (fs::exists(folder / "metrics.jsonl", error))
    run.lines = read_metrics((folder / "metrics.jsonl").string());
  run.summary = read_json_if_there((folder / "summary.json").string());
  std::vector<double> losses;
  for (const Value& line : run.lines) {
    if (const Figure loss = number_at(line, "loss")) losses.push_back(*loss);
    if (const Figure norm = number_at(line, "gradient_norm"))
      run.largest_norm = std::max(run.largest_norm.value_or(0.0), *norm);
    if (const Figure loss = number_at(line, "validation_loss")) run.loss = loss;
    if (const Figure metric = number_at(line, plan.metric)) run.metric = metric;
  }
  run.spikes = count_spikes(losses);
  return run;
}

Value run_value(const RunFigures& run, const Plan& plan) {
  const Value* last = run.lines.empty() ? nullptr : &run.lines.back();
  const auto at_end = [&](const char* key) {
    return last ? number_at(*last, key).value_or(0.0) : 0.0;
  };
  Value value{Table{}};
  value["seed"] = run.place.seed;
  value["folder"] = "runs/" + run.place.name;
  value["status"] = state_name(run.status.state);
  value["failure"] = run.status.failure.empty() ? Value() : Value(run.status.failure);
  value["metric"] = value_of(run.metric);
  value["loss"] = value_of(run.loss);
  value["seconds"] = at_end("seconds");
  value["tokens"] = at_end("tokens");
  value["steps"] = static_cast<int64_t>(at_end("step"));
  const double used = at_end(plan.equal == "steps" ? "step" : plan.equal.c_str()) / plan.budget;
  value["fraction"] = run.done() ? 1.0 : std::min(1.0, used);
  value["spikes"] = run.spikes;
  value["largest_gradient_norm"] = value_of(run.largest_norm);
  return value;
}

/// The worst that happened to any seed says how the variant stands.
RunState state_of(const std::vector<RunFigures>& runs) {
  for (const RunState state : {RunState::diverged, RunState::failed, RunState::running,
                               RunState::interrupted, RunState::missing})
    for (const RunFigures& run : runs)
      if (run.status.state == state) return state;
  return RunState::done;
}

/// The figure of every seed that is done.
std::vector<Figure> values_of(const std::vector<RunFigures>& runs, Figure RunFigures::*figure) {
  std::vector<Figure> values;
  for (const RunFigures& run : runs) values.push_back(run.done() ? run.*figure : std::nullopt);
  return values;
}

std::vector<double> present(const std::vector<Figure>& figures) {
  std::vector<double> values;
  for (const Figure& figure : figures)
    if (figure) values.push_back(*figure);
  return values;
}

Value spread_value(const std::vector<Figure>& figures) {
  const std::vector<double> values = present(figures);
  Value spread{Table{}};
  spread["mean"] = values.empty() ? Value() : Value(mean_of(values));
  spread["deviation"] = value_of(deviation_of(values));
  List list;
  for (const Figure& figure : figures) list.push_back(value_of(figure));
  spread["values"] = std::move(list);
  return spread;
}

Value test_value(const std::vector<Figure>& variant, const std::vector<Figure>& baseline,
                 bool higher_is_better) {
  std::vector<double> ours, theirs;
  for (size_t i = 0; i < variant.size(); ++i)
    if (variant[i] && baseline[i]) {
      ours.push_back(*variant[i]);
      theirs.push_back(*baseline[i]);
    }
  const PairedTest test = paired_test(ours, theirs);
  Value value{Table{}};
  value["difference"] = value_of(test.difference);
  value["p"] = value_of(test.p);
  value["smallest_detectable"] = value_of(test.smallest_detectable);
  value["pairs"] = test.pairs;
  if (!test.p)
    value["verdict"] = "too few seeds";
  else if (*test.p >= kSignificance)
    value["verdict"] = "no difference seen";
  else
    value["verdict"] = (*test.difference > 0) == higher_is_better ? "better" : "worse";
  return value;
}

std::vector<double> from_summaries(const std::vector<RunFigures>& runs, const std::string& key,
                                   const std::string& divisor = "") {
  std::vector<double> values;
  for (const RunFigures& run : runs) {
    const Figure value = number_at(run.summary, key);
    const Figure by = divisor.empty() ? Figure(1.0) : number_at(run.summary, divisor);
    if (value && by && *by > 0.0) values.push_back(*value / *by);
  }
  return values;
}

void add_costs(Value& value, const std::vector<RunFigures>& runs, const Value& latency,
               const std::string& folder) {
  const std::vector<double> parameters = from_summaries(runs, "parameters");
  const std::vector<double> flops = from_summaries(runs, "flops", "tokens");
  const std::vector<double> rates = from_summaries(runs, "tokens_per_second");
  const std::vector<double> memory = from_summaries(runs, "peak_memory_bytes");
  value["parameters"] =
      parameters.empty() ? Value() : Value(static_cast<int64_t>(parameters.front()));
  value["flops_per_token"] = flops.empty() ? Value() : Value(median_of(flops));
  value["tokens_per_second"] = rates.empty() ? Value() : Value(median_of(rates));
  value["peak_memory_bytes"] =
      memory.empty() ? Value()
                     : Value(static_cast<int64_t>(*std::max_element(memory.begin(), memory.end())));
  const Value* measured = latency.find(folder);
  value["latency_ms"]["batch_1"] = measured ? value_of(number_at(*measured, "batch_1")) : Value();
  value["latency_ms"]["training_batch"] =
      measured ? value_of(number_at(*measured, "training_batch")) : Value();
}

void add_stability(Value& value, const std::vector<RunFigures>& runs) {
  int64_t spikes = 0;
  Figure norm;
  for (const RunFigures& run : runs) {
    spikes += run.spikes;
    if (run.largest_norm) norm = std::max(norm.value_or(0.0), *run.largest_norm);
  }
  value["spikes"] = spikes;
  value["largest_gradient_norm"] = value_of(norm);
}

std::vector<std::vector<Value>> lines_of(const std::vector<RunFigures>& runs) {
  std::vector<std::vector<Value>> all;
  for (const RunFigures& run : runs) all.push_back(run.lines);
  return all;
}

Value variant_value(const Variant& variant, const std::vector<RunFigures>& runs, const Plan& plan,
                    const Value& latency) {
  Value value{Table{}};
  value["name"] = variant.name;
  value["folder"] = variant.folder;
  value["baseline"] = variant.baseline;
  value["set"] = variant.set;
  value["recipe_difference"] = recipe_difference(plan.variants.front().recipe, variant.recipe);
  value["status"] = state_name(state_of(runs));
  value["failure"] = Value();
  List list;
  for (const RunFigures& run : runs) {
    list.push_back(run_value(run, plan));
    if (value["failure"].is_null() && !run.status.failure.empty())
      value["failure"] = run.status.failure;
  }
  value["runs"] = std::move(list);
  value["metric"] = spread_value(values_of(runs, &RunFigures::metric));
  value["loss"] = spread_value(values_of(runs, &RunFigures::loss));
  value["against_baseline"] = Value();
  add_costs(value, runs, latency, variant.folder);
  value["to_baseline_loss"] = Value();
  add_stability(value, runs);
  const std::vector<std::vector<Value>> lines = lines_of(runs);
  value["curve"] = mean_curve(lines, "loss").value();
  value["validation_curve"] = mean_curve(lines, "validation_loss").value();
  value["metric_curve"] = mean_curve(lines, plan.metric).value();
  return value;
}

void compare_with_baseline(Value& value, const std::vector<RunFigures>& runs,
                           const std::vector<RunFigures>& baseline, const Plan& plan) {
  const std::vector<double> ends = present(values_of(baseline, &RunFigures::loss));
  value["to_baseline_loss"] = Value(Table{{"seconds", Value()}, {"tokens", Value()}});
  if (!ends.empty()) {
    const double goal = mean_of(ends) * (1.0 + 1e-12);  // the baseline's own curve ends at it
    const std::optional<Reached> reached =
        first_at_most(mean_curve(lines_of(runs), "validation_loss"), goal);
    if (reached) {
      value["to_baseline_loss"]["seconds"] = reached->seconds;
      value["to_baseline_loss"]["tokens"] = reached->tokens;
    }
  }
  if (*value.find("baseline")->get<bool>()) return;
  const auto test = [&](Figure RunFigures::*figure, bool higher) {
    return test_value(values_of(runs, figure), values_of(baseline, figure), higher);
  };
  value["against_baseline"]["metric"] = test(&RunFigures::metric, plan.higher_is_better);
  value["against_baseline"]["loss"] = test(&RunFigures::loss, false);
}

/// The machine that trained, or this one where no run has begun.
Value machine_of(const ComparisonFolder& folder) {
  std::error_code error;
  for (const RunPlace& place : folder.runs())
    if (fs::exists(fs::path(place.folder) / "machine.json", error))
      return read_json_if_there((fs::path(place.folder) / "machine.json").string());
  return describe_machine();
}

bool is_over(const std::string& status) {
  return status == "done" || status == "failed" || status == "diverged";
}

}  // namespace

Value summarise(const ComparisonFolder& folder, const Value& latency, int64_t jobs,
                int64_t threads) {
  const Plan& plan = folder.plan();
  std::vector<std::vector<RunFigures>> runs;
  for (const Variant& variant : plan.variants) {
    runs.emplace_back();
    for (const int64_t seed : plan.seeds)
      runs.back().push_back(figures_of(folder.run(variant, seed), plan));
  }
  Value summary{Table{}};
  summary["recipe"] = plan.recipe;
  summary["command"] = plan.command;
  summary["date"] = date_now();
  bool complete = true;
  for (const auto& of_variant : runs)
    for (const RunFigures& run : of_variant)
      complete = complete && is_over(state_name(run.status.state));
  summary["complete"] = complete;
  summary["machine"] = machine_of(folder);
  summary["equal"] = plan.equal;
  summary["budget"] = plan.budget;
  summary["jobs"] = jobs > 0 ? Value(jobs) : Value();
  summary["threads_per_job"] = threads > 0 ? Value(threads) : Value();
  summary["metric"]["name"] = plan.metric;
  summary["metric"]["higher_is_better"] = plan.higher_is_better;
  summary["seeds"] = List(plan.seeds.begin(), plan.seeds.end());
  List variants;
  for (size_t i = 0; i < runs.size(); ++i) {
    Value value = variant_value(plan.variants[i], runs[i], plan, latency);
    compare_with_baseline(value, runs[i], runs.front(), plan);
    variants.push_back(std::move(value));
  }
  summary["variants"] = std::move(variants);
  summary["baseline_recipe"] = plan.variants.front().recipe;
  return summary;
}

}  // namespace formwork

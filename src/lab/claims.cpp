#include "lab/claims.h"

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "lab/demonstrations.h"
#include "lab/figures.h"
#include "lab/growth.h"
#include "lab/text_table.h"
#include "training/evaluation.h"
#include "training/machine.h"

namespace formwork {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

const Variant& variant_called(const Plan& plan, const std::string& name) {
  const auto found = std::find_if(plan.variants.begin(), plan.variants.end(),
                                  [&](const Variant& v) { return v.name == name; });
  return found == plan.variants.end() ? plan.variants.front() : *found;
}

/// The entry of summary.json that belongs to a run.
const Value* run_in(const Value& summary, const Variant& variant, int64_t seed) {
  for (const Value& entry : *summary.find("variants")->get<List>()) {
    if (*entry.find("name")->get<std::string>() != variant.name) continue;
    for (const Value& run : *entry.find("runs")->get<List>())
      if (*run.find("seed")->get<int64_t>() == seed) return &run;
  }
  return nullptr;
}

/// What a run's own summary or the comparison's says of `metric`.
std::optional<double> figure_of(const Value& summary, const RunPlace& run,
                                const std::string& metric) {
  if (metric == "spikes" || metric == "largest_gradient_norm") {
    const Value* entry = run_in(summary, *run.variant, run.seed);
    return entry ? number_at(*entry, metric) : std::nullopt;
  }
  const Value own = read_json_if_there((fs::path(run.folder) / "summary.json").string());
  if (metric != "flops_per_token") return number_at(own, metric);
  const auto flops = number_at(own, "flops"), tokens = number_at(own, "tokens");
  return flops && tokens && *tokens > 0 ? std::optional<double>(*flops / *tokens) : std::nullopt;
}

/// The metric of the trained model under other settings, such as a longer input.
SeedOutcome evaluated_at(const RunPlace& run, const Table& settings, const std::string& metric) {
  std::vector<std::string> overrides;
  for (const auto& [key, value] : settings) overrides.push_back(key + "=" + value.text());
  try {
    LoadedRun loaded = load_run(run.folder, overrides);
    EvaluationRequest what;
    what.batch = loaded.recipe.train.evaluate.batch;
    what.items = loaded.recipe.train.evaluate.items;
    what.precision = loaded.recipe.train.precision;
    const std::unique_ptr<Processes> processes = Processes::from_environment();
    const auto figures = evaluate(*loaded.model, *loaded.task, what, *processes);
    const auto found = figures.find(metric);
    if (found == figures.end()) return {RunState::failed, std::nullopt};
    return {RunState::done, found->second};
  } catch (const Error&) {
    return {RunState::diverged, std::nullopt};  // a model that cannot be used so has lost
  }
}

std::vector<SeedOutcome> outcomes_of(const ComparisonFolder& folder, const Value& summary,
                                     const Variant& variant, const Expectation& expectation) {
  const std::string metric = expectation.metric.empty() ? folder.plan().metric : expectation.metric;
  std::vector<SeedOutcome> outcomes;
  for (const int64_t seed : folder.plan().seeds) {
    const RunPlace run = folder.run(variant, seed);
    SeedOutcome outcome{status_of(run).state, figure_of(summary, run, metric)};
    const Table* settings = expectation.at.get<Table>();
    if (settings && outcome.state == RunState::done) outcome = evaluated_at(run, *settings, metric);
    outcomes.push_back(outcome);
  }
  return outcomes;
}

Judgement judge_trained(const ComparisonFolder& folder, const Value& summary,
                        const Expectation& expectation) {
  const Plan& plan = folder.plan();
  const auto ours =
      outcomes_of(folder, summary, variant_called(plan, expectation.variant), expectation);
  const auto seeds = static_cast<int64_t>(plan.seeds.size());
  const int64_t least = expectation.least > 0 ? std::min(seeds, expectation.least) : seeds;
  if (expectation.kind == "diverges" || expectation.kind == "trains")
    return judge_divergence(ours, expectation.kind == "diverges", least);
  const auto theirs = outcomes_of(folder, summary, plan.variants.front(), expectation);
  if (expectation.kind == "equal")
    return judge_equal(ours, theirs, expectation.tolerance, expectation.relative);
  return judge_order(ours, theirs, expectation.kind == "lower", least, expectation.by);
}

/// The recipe of one variant.
Value table_of(const Value& table, const Variant& variant) {
  Value changed = table;
  changed["variant"] = Value();
  for (const auto& [key, value] : variant.set) set_by_path(changed, key, value);
  return changed;
}

Judgement judge_timed(const Value& table, const Plan& plan, const Expectation& expectation,
                      int64_t repetitions) {
  const Value changed = table_of(table, variant_called(plan, expectation.variant));
  if (expectation.kind == "faster")
    return judge_faster(expectation.sizes,
                        measure_ratios(changed, table_of(table, plan.variants.front()), plan.recipe,
                                       expectation.key, expectation.sizes, repetitions));
  const Growth growth =
      measure_growth(changed, plan.recipe, expectation.key, expectation.sizes, repetitions);
  Judgement judgement =
      judge_exponent(growth.exponents, expectation.exponent, expectation.kind == "grows_at_most");
  judgement.numbers += "; ";
  for (size_t i = 0; i < growth.sizes.size(); ++i)
    judgement.numbers += join_text(i == 0 ? "" : ", ", growth.sizes[i], ": ",
                                   figure_text(growth.milliseconds.back()[i]), " ms");
  return judgement;
}

Judgement judge_demonstration(const Expectation& expectation) {
  const Demonstration& what = demonstration_called(expectation.demonstration, "demonstration");
  return judge_bound(what.compute(), expectation.bound, expectation.kind == "at_most");
}

int64_t parameters_of(Value table, const std::string& source, const Value& at) {
  if (const Table* settings = at.get<Table>())
    for (const auto& [key, value] : *settings) set_by_path(table, key, value);
  Recipe recipe = Recipe::from(table, source);
  const std::shared_ptr<Task> task = recipe.make_task();
  return Model(recipe.model, task->form(), 0).parameter_count();
}

Judgement judge_size(const Value& table, const Plan& plan, const Expectation& expectation) {
  const auto count = [&](const Variant& variant) {
    return parameters_of(table_of(table, variant), plan.recipe, expectation.at);
  };
  const int64_t ours = count(variant_called(plan, expectation.variant));
  const int64_t theirs = count(plan.variants.front());
  const double part = static_cast<double>(ours) / static_cast<double>(theirs);
  Judgement judgement = judge_bound(part, expectation.bound, true);
  judgement.numbers =
      join_text(ours, " of ", theirs, " parameters, ", figure_text(100 * part), " %");
  return judgement;
}

}  // namespace

void check_claim(const Claim& claim) {
  if (!claim.needs_recipe()) return;
  for (const bool full : {false, true}) make_plan(claim.recipe_table(full), claim.slug, {});
}

ClaimResult run_claim(const Claim& claim, const ClaimsRequest& request, const Console& console) {
  const auto begun = Clock::now();
  ClaimResult result{claim, {}, {}, "", 0.0, false};
  const Value table = claim.recipe_table(request.full);
  PlanRequest wanted;
  wanted.seeds = request.seeds > 0 ? request.seeds : claim.seeds;
  wanted.equal = claim.equal;
  const bool trained = std::any_of(claim.expectations.begin(), claim.expectations.end(),
                                   [](const Expectation& e) { return e.is_trained(); });
  Plan plan = claim.needs_recipe() ? make_plan(table, claim.slug, wanted) : Plan();
  plan.command = "formwork claims " + claim.slug + (request.full ? " --full" : "");
  Value summary;
  std::optional<ComparisonFolder> folder;
  if (trained) {
    const std::string name = claim.slug + (request.full ? "-full" : "");
    folder.emplace(ComparisonFolder::adopt((fs::path(request.out) / name).string(), plan));
    result.folder = folder->path();
    CompareRequest compare;
    compare.jobs = request.jobs;
    result.stopped = !train_comparison(*folder, compare, console, summary);
  }
  for (const Expectation& expectation : claim.expectations) {
    if (result.stopped) break;
    result.judgements.push_back(
        expectation.is_demonstrated()   ? judge_demonstration(expectation)
        : expectation.kind == "smaller" ? judge_size(table, plan, expectation)
        : expectation.is_timed()
            ? judge_timed(table, plan, expectation, std::max<int64_t>(3, wanted.seeds))
            : judge_trained(*folder, summary, expectation));
  }
  result.verdict = verdict_of(result.judgements);
  result.seconds = std::chrono::duration<double>(Clock::now() - begun).count();
  return result;
}

Value claims_value(const std::vector<ClaimResult>& results, const ClaimsRequest& request) {
  List list;
  for (const ClaimResult& result : results) {
    Value entry{Table{}};
    entry["slug"] = result.claim.slug;
    entry["citation"] = result.claim.citation;
    entry["specification"] = result.claim.specification;
    entry["statement"] = result.claim.statement;
    entry["note"] = result.claim.note;
    entry["verdict"] = verdict_text(result.verdict);
    entry["folder"] = result.folder;
    entry["seconds"] = result.seconds;
    List expectations;
    for (size_t i = 0; i < result.judgements.size(); ++i) {
      Value one{Table{}};
      one["expected"] = result.claim.expectations[i].text();
      one["verdict"] = verdict_text(result.judgements[i].verdict);
      one["numbers"] = result.judgements[i].numbers;
      expectations.push_back(std::move(one));
    }
    entry["expectations"] = std::move(expectations);
    list.push_back(std::move(entry));
  }
  Value value{Table{}};
  value["full"] = request.full;
  value["machine"] = describe_machine();
  value["claims"] = std::move(list);
  return value;
}

std::string claims_markdown(const std::vector<ClaimResult>& results) {
  TextTable table({"claim", "verdict", "seconds"});
  for (const ClaimResult& result : results)
    table.add({result.claim.slug, verdict_text(result.verdict), figure_text(result.seconds)});
  std::string out = "# Claims\n\n" + table.markdown();
  for (const ClaimResult& result : results) {
    out += "\n## " + result.claim.slug + ": " + verdict_text(result.verdict) + "\n\n" +
           result.claim.statement + " (" + result.claim.citation + ")\n\n";
    for (size_t i = 0; i < result.judgements.size(); ++i)
      out += "- " + result.claim.expectations[i].text() + ": **" +
             verdict_text(result.judgements[i].verdict) + "**. " + result.judgements[i].numbers +
             "\n";
    if (!result.claim.note.empty()) out += "\n" + result.claim.note + "\n";
  }
  return out;
}

std::string claims_text(const std::vector<ClaimResult>& results) {
  std::string out;
  for (const ClaimResult& result : results) {
    out += result.claim.slug + ": " + verdict_text(result.verdict) + "\n";
    for (size_t i = 0; i < result.judgements.size(); ++i)
      out += "  " + result.claim.expectations[i].text() + "\n    " +
             verdict_text(result.judgements[i].verdict) + ": " + result.judgements[i].numbers +
             "\n";
  }
  return out;
}

std::vector<std::string> claim_files(const std::string& folder,
                                     const std::vector<std::string>& slugs) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error))
    if (entry.path().extension() == ".toml") names.push_back(entry.path().stem().string());
  std::sort(names.begin(), names.end());
  check(!slugs.empty() || !names.empty(), folder,
        "holds no claims; run this where the folder claims is, or give --from FOLDER");
  std::vector<std::string> files;
  for (const std::string& slug : slugs.empty() ? names : slugs) {
    if (slug.ends_with(".toml")) {
      files.push_back(slug);
      continue;
    }
    if (std::count(names.begin(), names.end(), slug) == 0)
      refuse("claims", unknown_name("claim", slug, names));
    files.push_back((fs::path(folder) / (slug + ".toml")).string());
  }
  return files;
}

}  // namespace formwork

#include "lab/plan.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "training/recipe.h"
#include "training/trainer.h"

namespace formwork {
namespace {

const std::vector<std::string> kUnits = {"steps", "tokens", "seconds", "flops"};

bool ends_with_kind(const std::string& key) {
  return key == "kind" || key.ends_with(".kind");
}

/// Tables written inside `set` as dotted keys, `kind` before what belongs to it.
void flatten(const Value& value, const std::string& path, Table& out) {
  const Table* table = value.get<Table>();
  if (!table) {
    out.emplace_back(path, value);
    return;
  }
  for (const bool kinds : {true, false})
    for (const auto& [key, inner] : *table)
      if (ends_with_kind(key) == kinds) flatten(inner, path.empty() ? key : path + "." + key, out);
}

/// Setting a kind drops the options of the old one, so kinds come first, outer ones before inner.
Table ordered(const Table& set) {
  Table flat;
  flatten(Value(set), "", flat);
  std::stable_sort(flat.begin(), flat.end(), [](const auto& a, const auto& b) {
    const bool first = ends_with_kind(a.first), second = ends_with_kind(b.first);
    if (first != second) return first;
    return first && std::count(a.first.begin(), a.first.end(), '.') <
                        std::count(b.first.begin(), b.first.end(), '.');
  });
  return flat;
}

std::string folder_name(const std::string& name) {
  std::string folder;
  for (const char c : name) {
    const bool plain = isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.' || c == '+';
    if (plain)
      folder += c;
    else if (!folder.empty() && folder.back() != '-')
      folder += '-';
  }
  while (!folder.empty() && folder.back() == '-') folder.pop_back();
  return folder.starts_with('.') ? "_" + folder : folder;
}

std::string place_of(const Value& value, const std::string& source) {
  const std::string text = value.place.text();
  return (text.empty() ? source : text) + ": variant";
}

Variant read_variant(const Value& entry, const std::string& source) {
  const std::string where = place_of(entry, source);
  check(entry.get<Table>() != nullptr, where, "is ", entry.kind(),
        "; a table with name and set was expected");
  Variant variant;
  for (const auto& [key, value] : *entry.get<Table>()) {
    if (key == "name") {
      check(value.get<std::string>() != nullptr, where, "name is ", value.kind(),
            "; a string was expected");
      variant.name = *value.get<std::string>();
    } else if (key == "set") {
      check(value.get<Table>() != nullptr, where, "set is ", value.kind(),
            "; a table such as { \"model.norm.kind\" = \"rms_norm\" } was expected");
      variant.set = ordered(*value.get<Table>());
    } else if (key == "baseline") {
      check(value.get<bool>() != nullptr, where, "baseline is ", value.kind(),
            "; true or false was expected");
      variant.baseline = *value.get<bool>();
    } else {
      refuse(where, "has an unknown key '", key, "'; valid: name, set, baseline");
    }
  }
  variant.folder = folder_name(variant.name);
  check(!variant.folder.empty(), where,
        "has no name; give one with letters or digits, such as name = \"rms norm\"");
  check(!variant.baseline || variant.set.empty(), where, "'", variant.name,
        "' is the baseline but sets keys; write them into the recipe itself");
  check(variant.baseline || !variant.set.empty(), where, "'", variant.name,
        "' sets nothing; give set = { \"model.norm.kind\" = \"rms_norm\" }, or baseline = true to "
        "name the baseline");
  return variant;
}

std::vector<Variant> read_variants(const Value* list, const std::string& source) {
  std::vector<Variant> variants;
  if (list) {
    check(list->get<List>() != nullptr, place_of(*list, source), "is ", list->kind(),
          "; tables [[variant]] were expected");
    for (const Value& entry : *list->get<List>()) variants.push_back(read_variant(entry, source));
  }
  const auto named = std::stable_partition(variants.begin(), variants.end(),
                                           [](const Variant& v) { return v.baseline; });
  if (named - variants.begin() > 1)
    fail(source, "two variants are named the baseline: '", variants[0].name, "' and '",
         variants[1].name, "'");
  if (named == variants.begin()) {
    Variant baseline;
    baseline.name = baseline.folder = "baseline";
    baseline.baseline = true;
    variants.insert(variants.begin(), baseline);
  }
  std::set<std::string> folders;
  for (const Variant& variant : variants)
    check(folders.insert(variant.folder).second, source, "two variants are called '", variant.name,
          "', or nearly so; give each a name of its own");
  return variants;
}

struct StepCost {
  double tokens = 0.0, flops = 0.0, seconds = 0.0;
};

/// What a step of the recipe costs; trains three.
StepCost measure_step(Recipe& recipe) {
  const std::unique_ptr<Processes> processes = Processes::from_environment();
  Trainer trainer(recipe, *processes);
  trainer.step();
  const Progress before = trainer.progress();
  trainer.step();
  trainer.step();
  const Progress& after = trainer.progress();
  return {(after.tokens - before.tokens) / 2, (after.flops - before.flops) / 2,
          (after.seconds - before.seconds) / 2};
}

double per_step(const StepCost& cost, const std::string& unit) {
  return unit == "tokens" ? cost.tokens : unit == "flops" ? cost.flops : cost.seconds;
}

std::optional<double> budget_in(const BudgetOptions& budget, const std::string& unit) {
  if (unit == "tokens") return budget.tokens;
  if (unit == "seconds") return budget.seconds;
  if (unit == "flops") return budget.flops;
  if (budget.steps) return static_cast<double>(*budget.steps);
  return std::nullopt;
}

Value budget_value(const std::string& unit, double amount) {
  return unit == "steps" ? Value(static_cast<int64_t>(std::llround(amount))) : Value(amount);
}

/// Settles the unit and size of the budget and how often the runs evaluate; writes both into the
/// table that all variants start from.
void settle_budget(Plan& plan, Recipe& baseline, Value& table, const std::string& wanted) {
  const BudgetOptions& given = baseline.train.budget;
  std::vector<std::string> own;
  for (const std::string& unit : kUnits)
    if (budget_in(given, unit)) own.push_back(unit);
  plan.equal = wanted.empty() ? own.front() : wanted;
  const Value* train = table.find("train");
  const Value* evaluate = train ? train->find("evaluate") : nullptr;
  const bool every_given = evaluate && evaluate->find("every");
  const bool convert = !budget_in(given, plan.equal);
  StepCost cost;
  if (convert || (plan.equal != "steps" && !every_given)) cost = measure_step(baseline);
  if (convert) {
    const std::string& from = own.front();
    const double steps =
        from == "steps" ? *budget_in(given, from) : *budget_in(given, from) / per_step(cost, from);
    plan.budget = plan.equal == "steps" ? std::max(1.0, std::round(steps))
                                        : steps * per_step(cost, plan.equal);
    check(plan.budget > 0.0, "--equal", "cannot convert train.budget.", from, " to ", plan.equal,
          "; give train.budget.", plan.equal, " in the recipe");
  } else {
    plan.budget = *budget_in(given, plan.equal);
  }
  table["train"]["budget"] = Value(Table{{plan.equal, budget_value(plan.equal, plan.budget)}});
  if (plan.equal != "steps" && !every_given) {
    const double steps = plan.budget / std::max(1e-12, per_step(cost, plan.equal));
    table["train"]["evaluate"]["every"] = Value(std::max<int64_t>(1, std::llround(steps / 10)));
  }
}

std::string resolve(const Value& table, const Variant& variant, const std::string& source) {
  try {
    Value changed = table;
    for (const auto& [key, value] : variant.set) set_by_path(changed, key, value);
    return Recipe::from(changed, source).resolved();
  } catch (const Error& error) {
    if (variant.baseline) throw;
    throw Error(error.fault(), join_text("variant '", variant.name, "': ", error.what()));
  }
}

}  // namespace

Plan make_plan(const std::string& path, const PlanRequest& request) {
  Value table = read_toml(path);
  for (const std::string& assignment : request.overrides) set_by_path(table, assignment);
  if (!table.find("name")) table["name"] = Value(std::filesystem::path(path).stem().string());
  return make_plan(std::move(table), path, request);
}

Plan make_plan(Value table, const std::string& source, const PlanRequest& request) {
  check(request.seeds >= 1, "--seeds", "is ", request.seeds, "; at least 1 was expected");
  check(request.equal.empty() || std::count(kUnits.begin(), kUnits.end(), request.equal) > 0,
        "--equal", "is '", request.equal, "'; valid: steps, tokens, seconds, flops");
  Plan plan;
  plan.recipe = source;
  plan.variants = read_variants(table.find("variant"), source);
  table["variant"] = Value();
  // Spikes last a step: seeing them takes a line for every step.
  if (!table["train"].find("log_every")) table["train"]["log_every"] = Value(int64_t{1});
  Recipe baseline = Recipe::from(table, source);
  plan.name = folder_name(baseline.name);
  plan.threads = baseline.train.threads;
  plan.metric = baseline.make_task()->main_metric();
  plan.higher_is_better = baseline.make_task()->more_is_better();
  for (int64_t i = 0; i < request.seeds; ++i) plan.seeds.push_back(baseline.train.seed + i);
  settle_budget(plan, baseline, table, request.equal);
  for (Variant& variant : plan.variants) variant.recipe = resolve(table, variant, source);
  return plan;
}

}  // namespace formwork

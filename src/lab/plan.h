// What a comparison trains: every variant of a recipe with every seed, on one budget.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/value.h"

namespace formwork {

/// A named change of a recipe; the baseline changes nothing.
struct Variant {
  std::string name;
  std::string folder;  // below runs/: the name with what a file system may not like replaced
  bool baseline = false;
  Table set;           // dotted key and value, the kinds first
  std::string recipe;  // resolved TOML, every default written out
};

struct Plan {
  std::string recipe;   // path as it was given
  std::string name;     // of the recipe, for folders
  std::string command;  // repeats the comparison
  std::string equal;    // steps, tokens, seconds or flops
  double budget = 0.0;
  std::string metric;
  bool higher_is_better = false;
  int64_t threads = 0;  // train.threads of the recipe; 0 = the runner decides
  std::vector<int64_t> seeds;
  std::vector<Variant> variants;  // the baseline first
};

/// Which of the recipe's choices the user overrules.
struct PlanRequest {
  std::vector<std::string> overrides;  // "key=value", of baseline and variants alike
  int64_t seeds = 3;
  std::string equal;  // empty: what the recipe's budget counts
};

/// Reads a recipe with [[variant]] tables: `name`, `set` (keys such as "model.norm.kind" to values)
/// and, on at most one that sets nothing, `baseline = true` to name the baseline. Every variant is
/// resolved and validated; a mistake in one is refused, naming it. Where the recipe's budget counts
/// something else than `equal`, it is converted by a training step of the baseline.
Plan make_plan(const std::string& path, const PlanRequest& request);
/// The same from a table; `source` names it in messages and in the plan.
Plan make_plan(Value table, const std::string& source, const PlanRequest& request);

/// The plan as kept in plan.json, and back.
Value plan_value(const Plan& plan);
Plan plan_from(const Value& value, const std::string& where);

/// Refuses, naming the first difference, a plan that would mix with what `kept` has trained. More
/// variants and other seeds are no difference: every run stands for itself.
void check_same_plan(const Plan& plan, const Plan& kept, const std::string& folder);

/// Every key of two resolved recipes that differs: {key, baseline, variant}, null where one lacks
/// it.
List recipe_difference(const std::string& baseline, const std::string& variant);

}  // namespace formwork

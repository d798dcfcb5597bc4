#include "lab/claim.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "lab/demonstrations.h"
#include "lab/figures.h"

namespace formwork {
namespace {

namespace fs = std::filesystem;

std::string settings_text(const Value& settings) {
  std::string text;
  if (const Table* table = settings.get<Table>())
    for (const auto& [key, value] : *table)
      text += (text.empty() ? " at " : ", ") + key + " = " + value.text();
  return text;
}

/// The names that expectations may use: those of [[variant]], and the baseline's.
std::vector<std::string> names_of(const Value& variants) {
  std::vector<std::string> names;
  bool baseline_named = false;
  if (const List* list = variants.get<List>())
    for (const Value& entry : *list) {
      const Value* name = entry.find("name");
      if (name && name->get<std::string>()) names.push_back(*name->get<std::string>());
      baseline_named = baseline_named || entry.find("baseline");
    }
  if (!baseline_named) names.emplace_back("baseline");
  return names;
}

}  // namespace

void Expectation::describe(OptionSet& o) {
  o.add(
      "kind", kind,
      "lower, higher: than the baseline in at least `least` seeds; equal: within `tolerance`; "
      "diverges, trains: in at least `least` seeds; grows_at_most, grows_at_least: the time of a "
      "forward pass over `sizes` of `key` with this `exponent`; faster: a forward pass takes less "
      "time than the baseline's at each of `sizes` of `key`; smaller: at most `bound` of the "
      "baseline's parameters; at_most, at_least: the figure of a `demonstration`, beside `bound`",
      one_of({"lower", "higher", "equal", "diverges", "trains", "grows_at_most", "grows_at_least",
              "faster", "smaller", "at_most", "at_least"}));
  o.add("variant", variant, "which variant it is said of");
  o.add("metric", metric,
        "validation_loss, a metric of the task, tokens_per_second, peak_memory_bytes, spikes, "
        "largest_gradient_norm; empty = the task's main metric");
  o.add("least", least, "seeds that have to agree; 0 = all", at_least(0));
  o.add("by", by, "lower, higher: the least difference that counts", at_least(0));
  o.add("tolerance", tolerance, "equal: the greatest difference of the means", at_least(0));
  o.add("relative", relative, "equal: the tolerance is a part of the baseline's mean");
  o.add_raw("at", at,
            "keys that the trained models are evaluated with, such as a longer input; one that "
            "cannot be used so counts as diverged. smaller: keys that both models are built with");
  o.add("demonstration", demonstration, "at_most, at_least: a figure that needs no training");
  o.add("bound", bound, "smaller, at_most, at_least: the limit", at_least(0));
  o.add("exponent", exponent, "grows_*: of the size", above(0));
  o.add("key", key, "grows_*, faster: the key that sets the size");
  o.add("sizes", sizes, "grows_*: at least three; faster: at least one");
  o.require(
      "sizes", [this] { return !is_growth() || sizes.size() >= 3; },
      "has less than three sizes, which is too few to tell how a time grows");
  o.require(
      "sizes", [this] { return kind != "faster" || !sizes.empty(); },
      "is missing; kind = \"faster\" needs at least one size");
  o.require(
      "demonstration", [this] { return !is_demonstrated() || !demonstration.empty(); },
      "is missing; kind = \"at_most\" and \"at_least\" need one");
  o.require(
      "bound", [this] { return kind != "smaller" || bound > 0.0; },
      "is missing; kind = \"smaller\" needs a part above 0");
  o.require(
      "tolerance", [this] { return kind != "equal" || tolerance > 0.0; },
      "is missing; kind = \"equal\" needs a tolerance above 0");
}

std::string Expectation::text() const {
  const std::string what = metric.empty() ? "main metric" : metric;
  const std::string where = settings_text(at);
  const std::string seeds =
      least > 0 ? join_text(" in at least ", least, " seeds") : " in all seeds";
  if (kind == "equal")
    return join_text(what, " of ", variant, " equals the baseline's within ",
                     relative ? figure_text(100 * tolerance) + " %" : figure_text(tolerance),
                     where);
  if (kind == "faster") {
    std::string list;
    for (const int64_t size : sizes) list += join_text(list.empty() ? " = " : ", ", size);
    return join_text("a forward pass of ", variant, " takes less time than the baseline's at ", key,
                     list);
  }
  if (is_demonstrated())
    return join_text(demonstration_called(demonstration, "demonstration").figure,
                     kind == "at_most" ? " is at most " : " is at least ", figure_text(bound));
  if (kind == "smaller")
    return join_text(variant, " has at most ", figure_text(100 * bound),
                     " % of the baseline's parameters", where);
  if (kind == "diverges" && !where.empty()) return variant + " cannot be used" + where + seeds;
  if (kind == "diverges") return variant + " diverges" + seeds;
  if (kind == "trains") return variant + " does not diverge" + seeds;
  if (is_growth())
    return join_text("time of ", variant, " grows with ", key, " to the power of at ",
                     kind == "grows_at_most" ? "most " : "least ", figure_text(exponent));
  return join_text(what, " of ", variant, " is ", kind, " than the baseline's",
                   by > 0 ? " by more than " + figure_text(by) : "", where, seeds);
}

void Claim::describe(OptionSet& o) {
  o.add("citation", citation, "authors, year, arXiv id");
  o.add("statement", statement, "what is claimed, in one's own words");
  o.add("specification", specification, "the methods' specification");
  o.add("note", note, "what a reader of the verdict should know");
  o.add("needs", needs, "a file or folder of data, without which the claim is left out of all");
  o.add("minutes", minutes, "how long it takes on two cores", above(0));
  o.add("seeds", seeds, "trainings of each variant", at_least(2));
  o.add("equal", equal, "what all get the same of: steps, tokens, seconds, flops",
        one_of({"", "steps", "tokens", "seconds", "flops"}));
  o.add_raw("recipe", recipe, "path of a recipe beside this file, or tables [recipe.*]");
  o.add_raw("variant", variants, "named changes, as in a recipe");
  o.add_raw("full", full, "keys and values of the paper's own setting");
  o.add_list(
      "expect", "what should come out",
      [this](OptionSet& i) { expectations.emplace_back().describe(i); },
      [this] {
        std::vector<std::function<void(OptionSet&)>> all;
        for (Expectation& expectation : expectations)
          all.emplace_back([&expectation](OptionSet& i) { expectation.describe(i); });
        return all;
      },
      [this] { expectations.clear(); });
}

Claim Claim::read(const std::string& path) {
  Claim claim;
  claim.path_ = path;
  claim.slug = fs::path(path).stem().string();
  OptionSet set;
  claim.describe(set);
  set.read(read_toml(path), "");
  check(!claim.citation.empty() && !claim.statement.empty(), path,
        "needs a citation and a statement");
  check(!claim.expectations.empty(), path, "expects nothing; give at least one [[expect]]");
  const std::vector<std::string> names = names_of(claim.recipe_table(false)["variant"]);
  for (const Expectation& expectation : claim.expectations)
    if (expectation.is_demonstrated())
      demonstration_called(expectation.demonstration, path);
    else
      check(std::count(names.begin(), names.end(), expectation.variant) > 0, path,
            "expects something of a variant '", expectation.variant, "' that it does not have");
  check(claim.recipe.get<std::string>() || claim.recipe.get<Table>() || !claim.needs_recipe(), path,
        "needs a recipe: a path beside it, or tables [recipe.task], [recipe.model], ...");
  return claim;
}

bool Claim::needs_recipe() const {
  return std::any_of(expectations.begin(), expectations.end(),
                     [](const Expectation& e) { return !e.is_demonstrated(); });
}

Value Claim::recipe_table(bool at_full_size) const {
  Value table = recipe;
  if (const std::string* beside = recipe.get<std::string>())
    table = read_toml((fs::path(path_).parent_path() / *beside).string());
  if (!variants.is_null()) table["variant"] = variants;
  table["name"] = slug;
  if (at_full_size)
    if (const Table* settings = full.get<Table>())
      for (const auto& [key, value] : *settings) set_by_path(table, key, value);
  return table;
}

}  // namespace formwork

// A plan as kept in plan.json, and whether two of them may share a folder.
#include <algorithm>

#include "core/error.h"
#include "lab/figures.h"
#include "lab/plan.h"

namespace formwork {
namespace {

const std::string& text_of(const Value& table, const std::string& key, const std::string& where) {
  const Value* found = table.find(key);
  const std::string* text = found ? found->get<std::string>() : nullptr;
  if (!text) refuse(where, "is no plan of a comparison: it lacks ", key);
  return *text;
}

/// Dotted keys of a table with every value; lists of tables by number.
void leaves(const Value& value, const std::string& path, std::vector<std::string>& keys,
            std::vector<Value>& values) {
  const auto inside = [&](const std::string& key) { return path.empty() ? key : path + "." + key; };
  if (const Table* table = value.get<Table>()) {
    for (const auto& [key, inner] : *table) leaves(inner, inside(key), keys, values);
    return;
  }
  const List* list = value.get<List>();
  if (list && !list->empty() && list->front().get<Table>()) {
    for (size_t i = 0; i < list->size(); ++i)
      leaves((*list)[i], inside(std::to_string(i)), keys, values);
    return;
  }
  keys.push_back(path);
  values.push_back(value);
}

}  // namespace

Value plan_value(const Plan& plan) {
  Value value{Table{}};
  value["recipe"] = plan.recipe;
  value["name"] = plan.name;
  value["command"] = plan.command;
  value["equal"] = plan.equal;
  value["budget"] = plan.budget;
  value["metric"] = plan.metric;
  value["higher_is_better"] = plan.higher_is_better;
  value["threads"] = plan.threads;
  value["seeds"] = List(plan.seeds.begin(), plan.seeds.end());
  List variants;
  for (const Variant& variant : plan.variants) {
    Value entry{Table{}};
    entry["name"] = variant.name;
    entry["folder"] = variant.folder;
    entry["baseline"] = variant.baseline;
    entry["set"] = variant.set;
    entry["recipe"] = variant.recipe;
    variants.push_back(std::move(entry));
  }
  value["variants"] = std::move(variants);
  return value;
}

Plan plan_from(const Value& value, const std::string& where) {
  Plan plan;
  plan.recipe = text_of(value, "recipe", where);
  plan.name = text_of(value, "name", where);
  plan.command = text_of(value, "command", where);
  plan.equal = text_of(value, "equal", where);
  plan.metric = text_of(value, "metric", where);
  const Value* budget = value.find("budget");
  const Value* higher = value.find("higher_is_better");
  const Value* threads = value.find("threads");
  const Value* seeds = value.find("seeds");
  const Value* variants = value.find("variants");
  check(budget && higher && higher->get<bool>() && threads && threads->get<int64_t>() && seeds &&
            seeds->get<List>() && variants && variants->get<List>(),
        where, "is no plan of a comparison");
  plan.budget = number_at(value, "budget").value_or(0.0);
  plan.higher_is_better = *higher->get<bool>();
  plan.threads = *threads->get<int64_t>();
  for (const Value& seed : *seeds->get<List>()) plan.seeds.push_back(*seed.get<int64_t>());
  for (const Value& entry : *variants->get<List>()) {
    Variant variant;
    variant.name = text_of(entry, "name", where);
    variant.folder = text_of(entry, "folder", where);
    variant.recipe = text_of(entry, "recipe", where);
    variant.baseline = *entry.find("baseline")->get<bool>();
    variant.set = *entry.find("set")->get<Table>();
    plan.variants.push_back(std::move(variant));
  }
  return plan;
}

List recipe_difference(const std::string& baseline, const std::string& variant) {
  std::vector<std::string> keys[2];
  std::vector<Value> values[2];
  leaves(parse_toml(baseline, "baseline"), "", keys[0], values[0]);
  leaves(parse_toml(variant, "variant"), "", keys[1], values[1]);
  const auto find = [&](int side, const std::string& key) {
    const auto found = std::find(keys[side].begin(), keys[side].end(), key);
    return found == keys[side].end() ? Value() : values[side][found - keys[side].begin()];
  };
  List differences;
  const auto add = [&](const std::string& key) {
    Value entry{Table{}};
    entry["key"] = key;
    entry["baseline"] = find(0, key);
    entry["variant"] = find(1, key);
    differences.push_back(std::move(entry));
  };
  for (const std::string& key : keys[0])
    if (find(0, key).text() != find(1, key).text()) add(key);
  for (const std::string& key : keys[1])
    if (find(0, key).is_null()) add(key);
  return differences;
}

void check_same_plan(const Plan& plan, const Plan& kept, const std::string& folder) {
  const std::string advice = "; choose another --out for the changed recipe";
  check(plan.equal == kept.equal, folder, "was begun with equal ", kept.equal, ", not ", plan.equal,
        advice);
  for (const Variant& old : kept.variants) {
    const auto same = [&](const Variant& v) { return v.folder == old.folder; };
    const auto found = std::find_if(plan.variants.begin(), plan.variants.end(), same);
    check(found != plan.variants.end(), folder, "was begun with a variant '", old.name,
          "', which the recipe has no more", advice);
    check(found->baseline == old.baseline, folder, "was begun with ",
          old.baseline ? "" : "another baseline than ", "'", old.name, "'",
          old.baseline ? " as the baseline" : "", advice);
    const List different = recipe_difference(old.recipe, found->recipe);
    if (different.empty()) continue;
    const Value& first = different.front();
    refuse(folder, "was begun with ", text_at(first, "key"), " = ", first.find("baseline")->text(),
           " in '", old.name, "', which is ", first.find("variant")->text(), " now", advice);
  }
}

}  // namespace formwork

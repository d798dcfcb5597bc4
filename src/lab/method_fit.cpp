#include "lab/method_fit.h"

#include <algorithm>

#include "training/recipe.h"

namespace formwork {
namespace {

constexpr int64_t kLength = 64;
constexpr int64_t kSymbols = 64;

InputForm input(InputForm::Kind kind) {
  InputForm form;
  form.kind = kind;
  form.vocabulary = kind == InputForm::Kind::tokens ? kSymbols : 0;
  form.length = kind == InputForm::Kind::audio ? 16'000 : kLength;
  form.channels = 3;
  form.height = form.width = 32;
  return form;
}

ModelUse use(const std::string& name, InputForm::Kind kind, OutputForm::Kind output,
             const std::string& form) {
  ModelUse made;
  made.name = name;
  made.form.input = input(kind);
  made.form.output.kind = output;
  made.form.output.size = output == OutputForm::Kind::tokens ? kSymbols : 10;
  made.form.output.horizon = 8;
  made.form.form = form;
  if (form == "encoder_decoder") made.form.source = input(InputForm::Kind::tokens);
  return made;
}

using Kinds = std::vector<std::pair<std::string, std::string>>;

/// Why the validator refuses these kinds for this use.
std::optional<std::string> refusal(const Kinds& kinds, const TaskForm& form) {
  try {
    small_model(kinds, form);
  } catch (const Error& error) {
    return error.what();
  }
  return std::nullopt;
}

/// The same for optimizers and schedules, of which the recipe judges.
std::optional<std::string> recipe_refusal(const Kinds& kinds) {
  Value table;
  table["task"]["kind"] = "sequence";
  for (const auto& [axis, kind] : kinds) table[axis]["kind"] = kind;
  try {
    Recipe::from(table, "recipe");
  } catch (const Error& error) {
    return error.what();
  }
  return std::nullopt;
}

bool is_of_training(const std::string& axis) {
  return axis == "optimizer" || axis == "schedule";
}

}  // namespace

const std::vector<ModelUse>& model_uses() {
  using In = InputForm::Kind;
  using Out = OutputForm::Kind;
  static const std::vector<ModelUse> all{
      use("decoder", In::tokens, Out::tokens, "decoder"),
      use("encoder", In::tokens, Out::classes, "encoder"),
      use("encoder-decoder", In::tokens, Out::tokens, "encoder_decoder"),
      use("images", In::image, Out::classes, "encoder"),
      use("series", In::series, Out::values, "encoder"),
      use("audio", In::audio, Out::classes, "encoder"),
  };
  return all;
}

std::string recipe_key(const std::string& axis) {
  if (axis == "task" || is_of_training(axis)) return axis;
  if (axis == "constraint") return "[[constraint]]";
  if (axis == "probe") return "train.probe";
  if (axis == "transform") return "formwork convert --transform";
  return axis == "depth" ? "model.depth_plan" : "model." + axis;
}

std::string choice_text(const MethodInfo& method) {
  const std::string key = recipe_key(method.axis);
  if (method.axis == "transform") return key + " " + method.name;
  if (method.axis == "probe") return key + ".kinds = [\"" + method.name + "\"]";  // a list of names
  return key + ".kind = \"" + method.name + "\"";
}

std::string default_of(const std::string& axis) {
  static const std::vector<OptionInfo> keys = [] {
    Recipe recipe;
    OptionSet set;
    recipe.model.describe(set);
    recipe.describe(set);
    return set.document();
  }();
  if (axis == "task") return "";  // every recipe names one
  const std::string key = recipe_key(axis);
  for (const OptionInfo& info : keys)
    if (info.type.ends_with("axis " + axis) && (info.key == key || "model." + info.key == key))
      return info.default_text;
  return "";
}

bool is_model_axis(const std::string& axis) {
  return recipe_key(axis).starts_with("model.") && !default_of(axis).empty();
}

ModelOptions small_model(const Kinds& kinds, const TaskForm& form) {
  Value table;
  table["width"] = int64_t{64};
  table["depth"] = int64_t{2};
  table["heads"] = int64_t{4};
  for (const auto& [axis, kind] : kinds) table[recipe_key(axis).substr(6)]["kind"] = kind;
  ModelOptions options;
  OptionSet set;
  options.describe(set);
  set.read(table, "model");
  options.settle(table, form);
  validate(options, form);
  return options;
}

std::vector<const ModelUse*> uses_of(const MethodInfo& method) {
  std::vector<const ModelUse*> good;
  for (const ModelUse& one : model_uses())
    if (!refusal({{method.axis, method.name}}, one.form)) good.push_back(&one);
  return good;
}

std::vector<Fit> fits_of(const MethodInfo& method) {
  std::vector<Fit> fits;
  const bool in_model = is_model_axis(method.axis), in_training = is_of_training(method.axis);
  const std::vector<const ModelUse*> uses =
      in_model ? uses_of(method) : std::vector<const ModelUse*>{};
  for (const MethodInfo* other : catalogue()) {
    if (other->axis == method.axis) continue;
    const Kinds kinds{{method.axis, method.name}, {other->axis, other->name}};
    if (in_training && is_of_training(other->axis)) fits.push_back({other, recipe_refusal(kinds)});
    if (!in_model || !is_model_axis(other->axis) || uses.empty()) continue;
    // They go together where one use allows it; else the first use's reason tells why not.
    Fit fit{other, refusal(kinds, uses.front()->form)};
    for (size_t i = 1; fit.reason && i < uses.size(); ++i)
      if (!refusal(kinds, uses[i]->form)) fit.reason.reset();
    fits.push_back(std::move(fit));
  }
  return fits;
}

}  // namespace formwork

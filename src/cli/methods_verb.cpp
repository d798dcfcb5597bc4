#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "cli/console.h"
#include "cli/verbs.h"
#include "core/registry.h"

namespace formwork {
namespace {

std::vector<OptionInfo> options_of(const MethodInfo& method) {
  OptionSet set;
  const std::unique_ptr<Options> options = method.make_options();
  options->describe(set);
  return set.document();
}

Value describe(const MethodInfo& method) {
  Value entry{Table{}};
  entry["axis"] = Value(method.axis);
  entry["name"] = Value(method.name);
  entry["specification"] = Value(method.specification);
  entry["paper"] = Value(method.paper);
  entry["summary"] = Value(method.summary);
  List options;
  for (const OptionInfo& info : options_of(method)) {
    Value option{Table{}};
    option["key"] = Value(info.key);
    option["type"] = Value(info.type);
    option["default"] = Value(info.default_text);
    option["range"] = Value(info.range);
    option["help"] = Value(info.help);
    options.push_back(std::move(option));
  }
  entry["options"] = Value(std::move(options));
  return entry;
}

/// Recipes write the depth axis as model.depth_plan, since model.depth is the number of layers.
std::string key_of(const std::string& axis) {
  if (axis == "task" || axis == "optimizer" || axis == "schedule") return axis;
  if (axis == "constraint") return "[[constraint]]";
  if (axis == "probe") return "train.probe.kinds, inspect --probe";
  return axis == "depth" ? "model.depth_plan" : "model." + axis;
}

void print_method(const MethodInfo& method) {
  // Probes are a list of names.
  const std::string choice = method.axis == "probe"
                                 ? "train.probe.kinds = [\"" + method.name + "\"]"
                                 : key_of(method.axis) + ".kind = \"" + method.name + "\"";
  std::printf("%s    %s\n", choice.c_str(), method.summary.c_str());
  std::printf("paper: %s\n", method.paper.c_str());
  const std::vector<OptionInfo> options = options_of(method);
  if (options.empty()) std::printf("no options\n");
  for (const OptionInfo& info : options) {
    std::printf("  %-20s %s%s%s\n", info.key.c_str(), info.help.c_str(),
                info.range.empty() ? "" : ("; " + info.range).c_str(),
                info.default_text.empty() ? "" : (" (default " + info.default_text + ")").c_str());
  }
}

void methods(const std::string& axis, const std::string& name, bool json) {
  std::vector<const MethodInfo*> chosen;
  std::vector<std::string> axes, names;
  for (const MethodInfo* method : catalogue()) {
    if (axes.empty() || axes.back() != method->axis) axes.push_back(method->axis);
    if (!axis.empty() && method->axis != axis) continue;
    names.push_back(method->name);
    if (name.empty() || method->name == name) chosen.push_back(method);
  }
  check(axis.empty() || std::count(axes.begin(), axes.end(), axis) > 0, "methods",
        unknown_name("axis", axis, axes));
  check(!chosen.empty(), "methods", unknown_name(axis, name, names));
  if (json) {
    List list;
    for (const MethodInfo* method : chosen) list.push_back(describe(*method));
    print_json(Value(std::move(list)));
    return;
  }
  if (!name.empty()) return print_method(*chosen.front());
  std::string last;
  for (const MethodInfo* method : chosen) {
    if (method->axis != last)
      std::printf("%s%s\n", last.empty() ? "" : "\n", key_of(method->axis).c_str());
    last = method->axis;
    std::printf("  %-16s %s\n", method->name.c_str(), method->summary.c_str());
  }
}

}  // namespace

void add_methods_verb(CLI::App& app) {
  struct Request {
    std::string axis, name;
    bool json = false;
  };
  const auto request = std::make_shared<Request>();
  CLI::App* verb = app.add_subcommand("methods", "what can be chosen on each axis, with options");
  verb->add_option("axis", request->axis, "only this axis");
  verb->add_option("name", request->name, "one method with its options, ranges and paper");
  verb->add_flag("--json", request->json,
                 "a list of {axis, name, specification, paper, summary, options}");
  verb->footer(
      "Examples:\n"
      "  formwork methods\n"
      "  formwork methods position rotary\n"
      "  formwork methods --json");
  verb->callback([request] { methods(request->axis, request->name, request->json); });
}

}  // namespace formwork

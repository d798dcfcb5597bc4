#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "cli/console.h"
#include "cli/verbs.h"
#include "core/registry.h"
#include "lab/method_fit.h"
#include "lab/method_pages.h"

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

void print_method(const MethodInfo& method) {
  std::printf("%s    %s\n", choice_text(method).c_str(), method.summary.c_str());
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
      std::printf("%s%s\n", last.empty() ? "" : "\n", recipe_key(method->axis).c_str());
    last = method->axis;
    std::printf("  %-16s %s\n", method->name.c_str(), method->summary.c_str());
  }
}

void write_pages(MethodPagesRequest request) {
  if (::isatty(STDERR_FILENO) != 0)
    request.progress = [](int64_t done, int64_t all, const std::string& name) {
      std::fprintf(stderr, "\r\033[Kmeasuring %lld of %lld: %s", static_cast<long long>(done + 1),
                   static_cast<long long>(all), name.c_str());
      if (done + 1 == all) std::fprintf(stderr, "\r\033[K");
    };
  const int64_t count = write_method_pages(request);
  std::printf("%lld methods: %s/index.html\n", static_cast<long long>(count),
              request.folder.c_str());
}

}  // namespace

void add_methods_verb(CLI::App& app) {
  struct Request {
    std::string axis, name;
    bool json = false;
    MethodPagesRequest pages;
  };
  const auto request = std::make_shared<Request>();
  CLI::App* verb = app.add_subcommand("methods", "what can be chosen on each axis, with options");
  verb->add_option("axis", request->axis, "only this axis");
  verb->add_option("name", request->name, "one method with its options, ranges and paper");
  verb->add_flag("--json", request->json,
                 "a list of {axis, name, specification, paper, summary, options}");
  CLI::Option* docs = verb->add_option("--docs", request->pages.folder,
                                       "write a site about all methods into this folder")
                          ->type_name("FOLDER")
                          ->excludes("axis");
  verb->add_option("--results", request->pages.results,
                   "show the verdicts that formwork claims wrote into this folder")
      ->type_name("FOLDER")
      ->needs(docs);
  verb->add_flag("--measure", request->pages.measure, "time every method on this machine (minutes)")
      ->needs(docs);
  verb->footer(
      "Examples:\n"
      "  formwork methods\n"
      "  formwork methods position rotary\n"
      "  formwork methods --json\n"
      "  formwork methods --docs site --measure");
  verb->callback([request] {
    if (!request->pages.folder.empty()) return write_pages(request->pages);
    methods(request->axis, request->name, request->json);
  });
}

}  // namespace formwork

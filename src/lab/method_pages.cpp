#include "lab/method_pages.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <string_view>

#include "core/build_info.h"
#include "core/error.h"
#include "formats/atomic_file.h"
#include "formats/json.h"
#include "lab/html.h"
#include "lab/method_cost.h"
#include "lab/method_docs.h"
#include "lab/method_fit.h"
#include "training/machine.h"
#include "training/page.h"

namespace formwork {

namespace assets {
// Made by cmake/embed.cmake.
std::string_view method_page();
std::string_view methods_css();
std::string_view methods_js();
}  // namespace assets

namespace {

namespace fs = std::filesystem;

using html::card, html::cell, html::code, html::linked, html::tag;

/// A verdict that `formwork claims` computed.
struct ClaimVerdict {
  std::string statement, verdict;
};

/// One site being written.
struct Pages {
  const MethodPagesRequest& request;
  std::multimap<std::string, ClaimVerdict> verdicts;  // by specification
  std::map<const MethodInfo*, MethodCost> costs;
  Value machine;
};

std::string link_to(const MethodInfo& method, const std::string& root) {
  return tag("a", for_html(method.name),
             "href=\"" + root + for_html(method.axis) + "/" + for_html(method.name) + ".html\"");
}

std::string plural(int64_t count, const std::string& word) {
  return join_text(count, " ", word, count == 1 ? "" : "s");
}

/// "1.3 ×" at the greatest size, as long as the axis' default.
std::string ratio(const MethodCost& cost) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f ×", cost.method.back() / cost.standard.back());
  return text;
}

std::string options_table(const MethodInfo& method) {
  OptionSet set;
  const std::unique_ptr<Options> options = method.make_options();
  options->describe(set);
  const std::vector<OptionInfo> infos = set.document();
  if (infos.empty()) return "<p class=\"about-text\">It has none.</p>";
  std::string rows;
  for (const OptionInfo& info : infos)
    rows += tag("tr", cell(code(info.key)) + cell(for_html(info.help), "wide-text") +
                          cell(info.default_text.empty() ? "" : code(info.default_text)) +
                          cell(for_html(info.range), "soft") + cell(for_html(info.type), "soft"));
  return tag("table",
             tag("thead", tag("tr", tag("th", "key") + tag("th", "meaning") + tag("th", "default") +
                                        tag("th", "valid") + tag("th", "type"))) +
                 tag("tbody", rows),
             "class=\"options\"");
}

/// The choice as a recipe writes it: the table on a line of its own.
std::string recipe_text(const MethodInfo& method) {
  const std::string key = recipe_key(method.axis), choice = choice_text(method);
  if (!choice.starts_with(key + ".")) return choice + "\n";
  return (key.starts_with("[") ? key : "[" + key + "]") + "\n" + choice.substr(key.size() + 1) +
         "\n";
}

/// For each axis the methods that go with this one, and those that do not with the reason.
std::string fits_table(const MethodInfo& method) {
  std::map<std::string, std::pair<std::string, std::string>> axes;  // names, reasons
  for (const Fit& fit : fits_of(method)) {
    auto& [names, reasons] = axes[fit.other->axis];
    if (fit.reason)
      reasons += tag("p", "not " + link_to(*fit.other, "../") + ": " + for_html(*fit.reason),
                     "class=\"not\"");
    else
      names += link_to(*fit.other, "../");
  }
  std::string rows;
  for (const auto& [axis, parts] : axes)
    rows += tag("tr", cell(for_html(axis)) +
                          cell(tag("div", parts.first, "class=\"names\"") + parts.second));
  return rows.empty() ? "" : tag("table", tag("tbody", rows), "class=\"fits\"");
}

std::string facts_table(const Pages& pages, const MethodInfo& method) {
  std::string rows;
  const auto row = [&](const std::string& name, const std::string& text) {
    rows += tag("tr", cell(name) + cell(text));
  };
  row("paper", linked(method.paper, true));
  std::string uses;
  if (is_model_axis(method.axis))
    for (const ModelUse* use : uses_of(method)) uses += (uses.empty() ? "" : ", ") + use->name;
  if (!uses.empty()) row("works in", for_html(uses));
  const std::string& slug = method.specification;
  if (!slug.empty())
    row("reference", has_golden(slug)
                         ? "<span class=\"good\">checked</span> against reference numbers (" +
                               code("tests/golden/" + slug) + ", test " + code("golden." + slug) +
                               ")"
                         : "no reference numbers for " + code(slug));
  const auto [first, last] = pages.verdicts.equal_range(slug);
  for (auto it = first; it != last && !slug.empty(); ++it)
    row("claim", for_html(it->second.statement) + ": " + tag("b", for_html(it->second.verdict)));
  if (const auto cost = pages.costs.find(&method); cost != pages.costs.end()) {
    const MethodCost& c = cost->second;
    if (c.baseline != method.name)
      row("cost", join_text(ratio(c), " the time of ", for_html(c.baseline), " at ", c.sizes.back(),
                            " ", for_html(c.size)));
  }
  return tag("table", tag("tbody", rows), "class=\"facts\"");
}

Value cost_value(const MethodCost& cost) {
  Value value;
  value["baseline"] = cost.baseline;
  value["what"] = cost.what;
  value["size"] = cost.size;
  value["sizes"] = List(cost.sizes.begin(), cost.sizes.end());
  value["method"] = List(cost.method.begin(), cost.method.end());
  value["standard"] = List(cost.standard.begin(), cost.standard.end());
  return value;
}

void write_page(const Pages& pages, const std::string& file, const std::string& root,
                const std::string& title, const std::string& body, const Value& data) {
  const fs::path path = fs::path(pages.request.folder) / file;
  const std::string foot =
      join_text("Written by Formwork ", kVersion, " from the registrations of its methods.");
  write_file_atomically(path.string(),
                        fill_page(assets::method_page(), {{"title", for_html(title)},
                                                          {"root", root},
                                                          {"body", body},
                                                          {"foot", for_html(foot)},
                                                          {"data", for_script(data)}}));
}

std::string header(const std::string& name) {
  return "<header><h1>" + name +
         "</h1><button class=\"small\" id=\"theme\" type=\"button\"></button></header>\n";
}

std::string text_of(const Value& table, const std::string& key) {
  const Value* value = table.find(key);
  const std::string* text = value ? value->get<std::string>() : nullptr;
  return text ? *text : "";
}

void write_method(const Pages& pages, const MethodInfo& method) {
  std::string body = tag("p",
                         "<a href=\"../index.html\">Methods</a> › <a href=\"../index.html#" +
                             for_html(method.axis) + "\">" + for_html(method.axis) + "</a>",
                         "class=\"crumbs\"") +
                     header(for_html(method.name)) +
                     tag("p", for_html(method.summary), "class=\"lead\"");
  const std::string comment = comment_of(method);
  body += card("What it does",
               (comment.empty() ? "" : tag("p", linked(comment), "class=\"about-text\"")) +
                   facts_table(pages, method));
  body += card("How to choose it", tag("pre", for_html(recipe_text(method))));
  body += card("Options", options_table(method));
  Value data;
  data["name"] = method.name;
  if (const auto cost = pages.costs.find(&method); cost != pages.costs.end()) {
    data["cost"] = cost_value(cost->second);
    body += "<div class=\"charts\" id=\"charts\"></div>\n";
    body += tag("p",
                for_html(join_text("Timed: ", cost->second.what, ", the least of several, on ",
                                   text_of(pages.machine, "processor"), ", ",
                                   text_of(pages.machine, "date").substr(0, 10), ".")),
                "class=\"not\"");
  }
  const std::string fits = fits_table(method);
  if (!fits.empty())
    body += card(
        "Combines with <span class=\"soft\">as the validator judges default "
        "options</span>",
        fits);
  write_page(pages, method.axis + "/" + method.name + ".html", "../",
             method.name + " (" + method.axis + ")", body, data);
}

std::string index_row(const Pages& pages, const MethodInfo& method) {
  const auto cost = pages.costs.find(&method);
  return tag("tr", cell(link_to(method, "")) + cell(for_html(method.summary), "summary") +
                       cell(linked(method.paper, true), "paper soft") +
                       (pages.costs.empty()
                            ? ""
                            : cell(cost == pages.costs.end() ? "" : ratio(cost->second), "cost")));
}

void write_index(const Pages& pages) {
  std::map<std::string, std::vector<const MethodInfo*>> axes, papers;
  for (const MethodInfo* method : catalogue()) {
    axes[method->axis].push_back(method);
    const std::string number = html::arxiv_number(method->paper);  // one paper, however cited
    if (!method->paper.empty() && method->paper != "no paper")
      papers[number.empty() ? method->paper : number].push_back(method);
  }
  std::string body = header("Methods");
  body +=
      tag("p",
          join_text(plural(static_cast<int64_t>(catalogue().size()), "method"), " on ", axes.size(),
                    " axes: the choices of a recipe, each with its options, its paper and what it "
                    "goes together with."),
          "class=\"lead\"");
  std::string jumps;
  for (const auto& [axis, methods] : axes)
    jumps += tag("a", for_html(axis), "href=\"#" + for_html(axis) + "\"");
  body +=
      tag("nav", jumps + "<a href=\"#by-paper\">by paper</a>", "class=\"axes\"") +
      "<input class=\"find\" id=\"find\" type=\"search\" placeholder=\"Find a method or paper\" "
      "aria-label=\"find a method or paper\">\n";
  const std::string head =
      tag("thead", tag("tr", tag("th", "method") + tag("th", "what it does") + tag("th", "paper") +
                                 (pages.costs.empty() ? "" : tag("th", "cost", "class=\"cost\""))));
  for (const auto& [axis, methods] : axes) {
    std::string rows;
    for (const MethodInfo* method : methods) rows += index_row(pages, *method);
    const std::string standard = default_of(axis);
    body +=
        card(for_html(axis) + tag("span",
                                  code(recipe_key(axis)) +
                                      (standard.empty() ? "" : ", default " + for_html(standard)),
                                  "class=\"soft\""),
             tag("table", head + tag("tbody", rows)), "card index", axis);
  }
  std::string rows;
  for (const auto& [paper, methods] : papers) {
    std::string names;
    for (const MethodInfo* method : methods)
      names += (names.empty() ? "" : ", ") + for_html(method->axis) + " " + link_to(*method, "");
    rows += tag("tr", cell(linked(paper, true)) + cell(names, "summary"));
  }
  body += card("By paper", tag("table", tag("tbody", rows)), "card index", "by-paper");
  write_page(pages, "index.html", "", "Methods", body, Value(Table{}));
}

/// The verdicts in claims.json of a folder that `formwork claims` wrote.
std::multimap<std::string, ClaimVerdict> read_verdicts(const std::string& folder) {
  std::multimap<std::string, ClaimVerdict> verdicts;
  if (folder.empty()) return verdicts;
  const std::string path = (fs::path(folder) / "claims.json").string();
  std::ifstream in(path, std::ios::binary);
  check(in.good(), path, "cannot be read; --results names a folder that formwork claims wrote");
  const Value read = parse_json(std::string{std::istreambuf_iterator<char>(in), {}}, path);
  const Value* inner = read.find("claims");
  const List* list = (inner ? *inner : read).get<List>();
  check(list != nullptr, path, "holds ", read.kind(), "; a list of claims was expected");
  for (const Value& claim : *list)
    verdicts.emplace(text_of(claim, claim.find("specification") ? "specification" : "slug"),
                     ClaimVerdict{text_of(claim, "statement"), text_of(claim, "verdict")});
  return verdicts;
}

void make_folder(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) fail(path.string(), "cannot be made a folder: ", error.message());
}

}  // namespace

int64_t write_method_pages(const MethodPagesRequest& request) {
  const std::vector<const MethodInfo*>& methods = catalogue();
  Pages pages{request, read_verdicts(request.results), {}, describe_machine()};
  const fs::path folder = request.folder;
  make_folder(folder);
  for (const MethodInfo* method : methods) make_folder(folder / method->axis);
  const auto all = static_cast<int64_t>(methods.size());
  for (int64_t i = 0; i < all && request.measure; ++i) {
    if (request.progress) request.progress(i, all, methods[i]->axis + " " + methods[i]->name);
    if (std::optional<MethodCost> cost = measure_cost(*methods[i]))
      pages.costs.emplace(methods[i], std::move(*cost));
  }
  write_file_atomically((folder / "style.css").string(),
                        std::string(page_style()) + std::string(assets::methods_css()));
  write_file_atomically((folder / "page.js").string(), page_script());
  write_file_atomically((folder / "methods.js").string(), assets::methods_js());
  write_file_atomically((folder / "chart.js").string(), chart_script());
  for (const MethodInfo* method : methods) write_method(pages, *method);
  write_index(pages);
  return all;
}

}  // namespace formwork

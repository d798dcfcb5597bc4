// The only file that knows toml++.
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "core/value.h"

#define TOML_EXCEPTIONS 1
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

namespace formwork {
namespace {

Place place_of(const toml::source_region& region, const std::string& file) {
  return Place{file, static_cast<int64_t>(region.begin.line),
               static_cast<int64_t>(region.begin.column)};
}

Value convert(const toml::node& node, const std::string& file) {
  Value value;
  if (const auto* table = node.as_table()) {
    Table entries;
    // toml++ sorts keys; the order of writing is what a person expects to see again.
    std::vector<std::pair<const toml::key*, const toml::node*>> order;
    for (auto&& [key, child] : *table) order.emplace_back(&key, &child);
    std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
      const auto& x = a.first->source().begin;
      const auto& y = b.first->source().begin;
      return x.line != y.line ? x.line < y.line : x.column < y.column;
    });
    for (const auto& [key, child] : order) {
      Value entry = convert(*child, file);
      if (key->source().begin.line) entry.place = place_of(key->source(), file);
      entries.emplace_back(std::string(key->str()), std::move(entry));
    }
    value = Value(std::move(entries));
  } else if (const auto* array = node.as_array()) {
    List items;
    for (auto&& child : *array) items.push_back(convert(child, file));
    value = Value(std::move(items));
  } else if (const auto* boolean = node.as_boolean()) {
    value = Value(boolean->get());
  } else if (const auto* integer = node.as_integer()) {
    value = Value(static_cast<int64_t>(integer->get()));
  } else if (const auto* real = node.as_floating_point()) {
    value = Value(real->get());
  } else if (const auto* text = node.as_string()) {
    value = Value(text->get());
  } else {
    refuse(place_of(node.source(), file).text(),
           "a date or time has no meaning in a recipe; write a number, string, list or table");
  }
  value.place = place_of(node.source(), file);
  return value;
}

}  // namespace

Value parse_toml(const std::string& text, const std::string& file) {
  try {
    return convert(toml::parse(text, file), file);
  } catch (const toml::parse_error& error) {
    refuse(place_of(error.source(), file).text(), "not valid TOML: ", error.description());
  }
}

Value read_toml(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  check(in.good(), path,
        "cannot be opened; name a TOML file that exists, such as recipes/quickstart.toml");
  std::stringstream text;
  text << in.rdbuf();
  check(!in.bad(), path, "cannot be read; is it a folder?");
  check(!text.str().empty(), path, "is empty; a recipe needs at least a [task] table");
  return parse_toml(text.str(), path);
}

}  // namespace formwork

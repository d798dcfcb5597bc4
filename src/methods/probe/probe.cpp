#include "methods/probe/probe.h"

#include <cmath>
#include <cstdio>

namespace formwork {

std::string probe_name(const std::string& text) {
  return text.substr(0, text.find(':'));
}

Choice<Probe> parse_probe(const std::string& text, const std::string& where) {
  const std::string name = probe_name(text);
  Choice<Probe> choice("attention_entropy");
  choice.select(name, where);
  if (name.size() == text.size()) return choice;
  Value options{Table{}};
  size_t start = name.size() + 1;
  while (start <= text.size()) {
    const size_t end = std::min(text.find(',', start), text.size());
    const std::string assignment = text.substr(start, end - start);
    check(assignment.find('=') != std::string::npos, where, "found '", text,
          "'; valid: NAME or NAME:OPTION=VALUE,OPTION=VALUE");
    set_by_path(options, assignment, where);
    start = end + 1;
  }
  for (auto& [key, value] : *options.get<Table>()) value.place = Place{};  // `where` tells it
  OptionSet set;
  choice.options().describe(set);
  set.read(options, where + " " + name);
  return choice;
}

std::string place_at(const std::string& point, std::string_view what) {
  if (point.size() <= what.size() + 1 || !point.ends_with(what)) return "";
  const size_t dot = point.size() - what.size() - 1;
  return point[dot] == '.' ? point.substr(0, dot) : "";
}

std::string layer_of(const std::string& name) {
  const auto part_end = [&](size_t from) { return std::min(name.find('.', from), name.size()); };
  const bool stacked = name.starts_with("encoder.") || name.starts_with("decoder.");
  const size_t start = stacked ? part_end(0) + 1 : 0;
  size_t end = part_end(start);
  if (name.substr(start, end - start) == "layers") end = part_end(end + 1);
  return name.substr(0, end);
}

std::vector<double> numbers(const Tensor& tensor) {
  const Tensor wide = tensor.detach().to(at::kCPU, at::kDouble).contiguous().flatten();
  const double* data = wide.const_data_ptr<double>();
  return {data, data + wide.numel()};
}

std::string figure_text(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

void Findings::say(std::string sentence) {
  sentences.push_back(std::move(sentence));
}

Figures figures_of(const char* key, std::string title, const char* row_title,
                   std::initializer_list<const char*> columns, Plot plot) {
  Figures figures;
  figures.key = key;
  figures.title = std::move(title);
  figures.row_title = row_title;
  for (const char* column : columns) figures.columns.emplace_back(column);
  figures.plot = plot;
  return figures;
}

std::vector<std::string> head_names(int64_t heads) {
  std::vector<std::string> names;
  for (int64_t h = 0; h < heads; ++h) names.push_back(join_text("head ", h));
  return names;
}

}  // namespace formwork

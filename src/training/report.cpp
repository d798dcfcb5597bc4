#include "training/report.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string_view>

#include "core/error.h"
#include "formats/atomic_file.h"
#include "formats/json.h"
#include "training/metrics_log.h"
#include "training/page.h"

namespace formwork {

namespace assets {
// Made by cmake/embed.cmake.
std::string_view report_page();
}  // namespace assets

namespace {

namespace fs = std::filesystem;

constexpr int64_t kMostLines = 3000;  // what a browser redraws at once, and more than pixels

std::optional<std::string> read_if_there(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return std::nullopt;
  return std::string{std::istreambuf_iterator<char>(in), {}};
}

Value json_if_there(const fs::path& path) {
  const std::optional<std::string> text = read_if_there(path);
  return text ? parse_json(*text, path.string()) : Value(Table{});
}

std::optional<double> number(const Value& line, const std::string& key) {
  const Value* value = line.find(key);
  if (!value) return std::nullopt;
  if (const int64_t* whole = value->get<int64_t>()) return static_cast<double>(*whole);
  if (const double* real = value->get<double>()) return *real;
  return std::nullopt;
}

bool is_evaluation(const Value& line) {
  if (!number(line, "loss")) return true;
  for (const auto& [key, value] : *line.get<Table>())
    if (key.starts_with("validation_")) return true;
  return false;
}

/// One list a key, with null where a line lacks it.
Value columns_of(const std::vector<Value>& lines) {
  Table columns;
  std::map<std::string, size_t> places;
  for (size_t row = 0; row < lines.size(); ++row) {
    for (const auto& [key, value] : *lines[row].get<Table>()) {
      if (!value.get<int64_t>() && !value.get<double>()) continue;
      const auto [found, is_new] = places.emplace(key, columns.size());
      if (is_new) columns.emplace_back(key, Value(List(lines.size())));
      (*columns[found->second].second.get<List>())[row] = value;
    }
  }
  return columns;
}

}  // namespace

std::vector<Value> thin_metrics(const std::vector<Value>& lines, int64_t most) {
  const auto count = static_cast<int64_t>(lines.size());
  if (count <= most) return lines;
  const int64_t stretches = std::max<int64_t>(1, most / 2);
  std::vector<bool> kept(lines.size());
  kept.front() = kept.back() = true;
  for (int64_t stretch = 0; stretch < stretches; ++stretch) {
    int64_t least = -1, greatest = -1;
    for (int64_t i = stretch * count / stretches; i < (stretch + 1) * count / stretches; ++i) {
      if (is_evaluation(lines[i])) kept[i] = true;
      const std::optional<double> loss = number(lines[i], "loss");
      if (!loss) continue;
      if (least < 0 || *loss < *number(lines[least], "loss")) least = i;
      if (greatest < 0 || *loss > *number(lines[greatest], "loss")) greatest = i;
    }
    if (least >= 0) kept[least] = kept[greatest] = true;
  }
  std::vector<Value> thin;
  for (size_t i = 0; i < lines.size(); ++i)
    if (kept[i]) thin.push_back(lines[i]);
  return thin;
}

std::string write_report(const std::string& run_folder) {
  const fs::path folder = run_folder;
  std::error_code error;
  check(fs::is_directory(folder, error), run_folder, "no such folder; name the folder of a run");
  std::vector<Value> lines;
  if (fs::exists(folder / "metrics.jsonl", error))
    lines = read_metrics((folder / "metrics.jsonl").string());
  const std::vector<Value> drawn = thin_metrics(lines, kMostLines);

  Value run;
  const fs::path full = fs::weakly_canonical(folder, error);
  const std::string title = (full.has_filename() ? full : full.parent_path()).filename().string();
  run["title"] = title;
  run["machine"] = json_if_there(folder / "machine.json");
  if (const Value* date = run["machine"].find("date"); date && date->get<std::string>())
    run["date"] = date->get<std::string>()->substr(0, 10);
  run["summary"] = json_if_there(folder / "summary.json");
  run["recipe"] = read_if_there(folder / "recipe.toml").value_or("");
  if (drawn.size() < lines.size()) run["thinned"] = static_cast<int64_t>(lines.size());
  run["columns"] = columns_of(drawn);

  const std::string path = (folder / "report.html").string();
  write_file_atomically(path, make_page(assets::report_page(), title, run));
  return path;
}

}  // namespace formwork

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "formats/atomic_file.h"
#include "formats/json.h"
#include "training/inspection.h"
#include "training/page.h"

namespace formwork {

namespace assets {
std::string_view inspection_page();
}  // namespace assets

namespace {

namespace fs = std::filesystem;

Value number_value(double value) {
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return std::isnan(value) ? Value() : Value(value);
}

Value list_of(const std::vector<double>& values) {
  List list;
  for (const double value : values) list.push_back(number_value(value));
  return list;
}

Value texts(const std::vector<std::string>& all) {
  List list;
  for (const std::string& text : all) list.emplace_back(text);
  return list;
}

Value figures_json(const Figures& figures) {
  Value table{Table{}};
  table["title"] = figures.title;
  table["row_title"] = figures.row_title;
  table["columns"] = texts(figures.columns);
  table["rows"] = Value(Table{});
  for (const auto& [name, values] : figures.rows) table["rows"][name] = list_of(values);
  table["plot"] = figures.plot != Plot::none;
  table["logarithmic"] = figures.plot == Plot::logarithmic;
  return table;
}

Value picture_json(const Picture& picture) {
  Value table{Table{}};
  table["title"] = picture.title;
  table["row_title"] = picture.row_title;
  table["column_title"] = picture.column_title;
  List rows;
  for (int64_t i = 0; i < picture.values.size(0); ++i) {
    List row;
    for (const double value : numbers(picture.values[i])) {
      // Four digits: a page of a hundred maps stays small.
      const double size = std::pow(10.0, 3 - std::floor(std::log10(std::fabs(value) + 1e-300)));
      row.push_back(value == 0.0 || !std::isfinite(value) ? number_value(value)
                                                          : Value(std::round(value * size) / size));
    }
    rows.emplace_back(std::move(row));
  }
  table["rows"] = Value(std::move(rows));
  return table;
}

std::string cell(double value) {
  if (std::isnan(value)) return "-";
  return figure_text(value);
}

/// Letters, not bytes: names may hold any UTF-8.
size_t width_of(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

std::string padded(const std::string& text, size_t width, bool right) {
  const std::string space(width > width_of(text) ? width - width_of(text) : 0, ' ');
  return right ? space + text : text + space;
}

std::string table_text(const Figures& figures) {
  std::vector<std::vector<std::string>> lines{{figures.row_title}};
  lines[0].insert(lines[0].end(), figures.columns.begin(), figures.columns.end());
  for (const auto& [name, values] : figures.rows) {
    std::vector<std::string> line{name};
    for (const double value : values) line.push_back(cell(value));
    lines.push_back(std::move(line));
  }
  std::vector<size_t> widths(lines[0].size(), 0);
  for (const auto& line : lines)
    for (size_t i = 0; i < line.size() && i < widths.size(); ++i)
      widths[i] = std::max(widths[i], width_of(line[i]));
  std::string out = "  " + figures.title + "\n";
  for (const auto& line : lines) {
    std::string row = "    ";
    for (size_t i = 0; i < line.size() && i < widths.size(); ++i)
      row += (i ? "  " : "") + padded(line[i], widths[i], i > 0);
    out += row.substr(0, row.find_last_not_of(' ') + 1) + "\n";
  }
  return out;
}

}  // namespace

Value inspection_json(const std::vector<ProbeResult>& results) {
  Value all{Table{}};
  for (const ProbeResult& result : results) {
    Value one{Table{}};
    one["summary"] = result.summary;
    one["sentences"] = texts(result.findings.sentences);
    one["figures"] = Value(Table{});
    for (const Figures& figures : result.findings.figures)
      one["figures"][figures.key] = figures_json(figures);
    List pictures;
    for (const Picture& picture : result.findings.pictures)
      pictures.push_back(picture_json(picture));
    one["pictures"] = Value(std::move(pictures));
    one["series"] = Value(Table{});
    for (const Series& series : result.findings.series)
      one["series"][series.name.empty() ? result.name : result.name + "." + series.name] =
          list_of(series.values);
    all[result.name] = std::move(one);
  }
  return all;
}

std::string write_inspection(const std::vector<ProbeResult>& results, const std::string& folder,
                             const std::string& title, const std::string& about) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail(folder, "cannot be made: ", error.message());
  Value page{Table{}};
  page["title"] = title;
  page["about"] = about;
  page["probes"] = inspection_json(results);
  write_file_atomically((fs::path(folder) / "inspection.json").string(), write_json(page) + "\n");
  const std::string path = (fs::path(folder) / "inspection.html").string();
  write_file_atomically(path, make_page(assets::inspection_page(), title, page));
  return path;
}

std::string inspection_text(const ProbeResult& result) {
  std::string out = result.name + ": " + result.summary + "\n";
  for (const std::string& sentence : result.findings.sentences) out += "  " + sentence + "\n";
  for (const Figures& figures : result.findings.figures) {
    // A curve of many points is for the page.
    constexpr size_t kMostRows = 64;
    if (figures.rows.empty()) continue;
    if (figures.row_title.starts_with("%") || figures.rows.size() > kMostRows)
      out +=
          join_text("  ", figures.title, ": ", figures.rows.size(), " rows, see --json or --out\n");
    else
      out += table_text(figures);
  }
  return out;
}

}  // namespace formwork

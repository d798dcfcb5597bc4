#include "data/check.h"

#include <algorithm>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "data/file.h"
#include "data/images.h"
#include "data/listops_file.h"
#include "data/table.h"
#include "data/text.h"

namespace formwork {
namespace {

namespace fs = std::filesystem;

enum class DataKind { idx, cifar, listops, table, text };

std::string extension_of(const std::string& file) {
  return fs::path(file).extension().string();
}

std::string_view first_line(std::string_view bytes) {
  return bytes.substr(0, std::min(bytes.find_first_of("\r\n"), bytes.size()));
}

DataKind kind_of(std::string_view bytes, const std::string& file) {
  const std::string name = fs::path(file).filename().string();
  const std::string extension = extension_of(file);
  const bool idx_name =
      name.find("idx1-ubyte") != name.npos || name.find("idx3-ubyte") != name.npos;
  const bool idx_bytes = bytes.size() >= 4 && bytes[0] == 0 && bytes[1] == 0 && bytes[2] == 8 &&
                         bytes[3] >= 1 && bytes[3] <= 4;
  if (idx_name || idx_bytes || is_gzip(bytes)) return DataKind::idx;
  const bool cifar_name = name.starts_with("data_batch_") || name.starts_with("test_batch");
  const bool cifar_size = bytes.size() % static_cast<size_t>(kCifarRecord) == 0;
  if (extension == ".bin" && (cifar_name || cifar_size)) return DataKind::cifar;
  const std::string_view line = first_line(bytes);
  if (line == "Source\tTarget" || name.starts_with("basic_")) return DataKind::listops;
  if (extension == ".csv" || line.starts_with("date,")) return DataKind::table;
  return DataKind::text;
}

using Findings = std::vector<Finding>;

template <class... Parts>
void summarise(Findings& findings, const std::string& file, const Parts&... parts) {
  findings.push_back({Severity::summary, {file}, join_text(parts...)});
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t extent : shape) text += (text.empty() ? "" : "x") + std::to_string(extent);
  return text;
}

void check_idx(std::string_view bytes, const std::string& file, Findings& findings) {
  const IdxArray array = parse_idx(bytes, file);
  if (array.bytes.empty()) {
    findings.push_back({Severity::problem, {file}, "holds no data: " + shape_text(array.shape)});
    return;
  }
  const auto [low, high] = std::minmax_element(
      array.bytes.begin(), array.bytes.end(),
      [](char a, char b) { return static_cast<uint8_t>(a) < static_cast<uint8_t>(b); });
  if (array.shape.size() == 1 && static_cast<uint8_t>(*high) > 9) {
    const auto byte = 8 + (high - array.bytes.begin());
    const DataPlace place = is_gzip(bytes) ? DataPlace{file} : DataPlace{file, 0, 0, byte};
    findings.push_back({Severity::problem, place,
                        join_text("the label of item ", byte - 8, " is ",
                                  int{static_cast<uint8_t>(*high)}, ", 0 to 9 is needed")});
  }
  summarise(findings, file, "IDX ",
            array.shape.size() == 1 ? "labels: " : "images: ", shape_text(array.shape), ", values ",
            int{static_cast<uint8_t>(*low)}, " to ", int{static_cast<uint8_t>(*high)});
}

void check_cifar(std::string_view bytes, const std::string& file, Findings& findings) {
  Images images;
  parse_cifar10(bytes, file, images);
  std::vector<int64_t> counts(10, 0);
  for (const uint8_t label : images.labels) ++counts[label];
  const auto [low, high] = std::minmax_element(counts.begin(), counts.end());
  summarise(findings, file, "CIFAR-10: ", images.count(), " colour images of 32x32, ", *low, " to ",
            *high, " in each class");
}

void check_listops(std::string_view bytes, const std::string& file, Findings& findings) {
  Problems problems(&findings);
  const auto samples = parse_listops_tsv(bytes, file, problems, ListopsTrust::everything);
  problems.finish(file);
  if (samples.empty() && problems.count() == 0) {
    findings.push_back({Severity::problem, {file}, "has a header but no rows"});
  }
  if (samples.empty()) return;
  size_t shortest = samples[0].tokens.size(), longest = 0;
  for (const ListopsSample& sample : samples) {
    shortest = std::min(shortest, sample.tokens.size());
    longest = std::max(longest, sample.tokens.size());
  }
  summarise(findings, file, "ListOps: ", samples.size(), " usable rows of ", shortest, " to ",
            longest, " tokens");
}

void check_table(std::string_view bytes, const std::string& file, Findings& findings) {
  TableOptions options;
  const std::string line = "," + std::string(first_line(bytes)) + ",";
  if (line.find(",date,") == std::string::npos && line.find(",\"date\",") == std::string::npos) {
    options.date_column.clear();
  }
  Problems problems(&findings);
  const NumberTable table = parse_table(bytes, file, options, problems);
  problems.finish(file);
  if (table.rows() == 0) {
    findings.push_back({Severity::problem, {file}, "has a header but no usable rows"});
    return;
  }
  const std::string dates =
      table.seconds.empty() ? "no date column"
                            : join_text("a date column in steps of ", table.step_seconds(), " s");
  summarise(findings, file, "CSV: ", table.rows(), " rows, ", table.width(), " numeric columns, ",
            dates);
}

void check_text(std::string_view bytes, const std::string& file, Findings& findings) {
  const size_t invalid = find_invalid_utf8(bytes);
  if (invalid == std::string_view::npos) {
    const auto characters = decode_utf8(bytes, file);
    const CharacterVocabulary vocabulary(characters);
    summarise(findings, file, "UTF-8 text: ", characters.size(), " characters (", vocabulary.size(),
              " different), ", bytes.size(), " bytes, ",
              std::count(bytes.begin(), bytes.end(), '\n'), " lines");
    return;
  }
  const std::string_view before = bytes.substr(0, invalid);
  const size_t line_start = before.rfind('\n') + 1;  // npos + 1 is 0
  const DataPlace place{file, std::count(before.begin(), before.end(), '\n') + 1,
                        static_cast<int64_t>(invalid - line_start) + 1,
                        static_cast<int64_t>(invalid)};
  findings.push_back({Severity::problem, place,
                      join_text(shown(bytes.substr(invalid, 1)), " at byte ", invalid,
                                " is not valid UTF-8; the file can only be read as bytes")});
}

void check_kind(std::string_view bytes, const std::string& file, Findings& findings) {
  switch (kind_of(bytes, file)) {
    case DataKind::idx:
      return check_idx(bytes, file, findings);
    case DataKind::cifar:
      return check_cifar(bytes, file, findings);
    case DataKind::listops:
      return check_listops(bytes, file, findings);
    case DataKind::table:
      return check_table(bytes, file, findings);
    case DataKind::text:
      return check_text(bytes, file, findings);
  }
}

}  // namespace

std::vector<Finding> check_bytes(std::string_view bytes, const std::string& file) {
  if (bytes.empty()) return {{Severity::problem, {file}, "is empty"}};
  Findings findings;
  try {
    check_kind(bytes, file, findings);
  } catch (const DataError& error) {
    findings.push_back(error.finding());
  } catch (const Error& error) {
    // Readers begin their sentences with the file's name, which the place already holds.
    std::string what = error.what();
    if (what.starts_with(file + ": ")) what.erase(0, file.size() + 2);
    findings.push_back({Severity::problem, {file}, what});
  }
  return findings;
}

std::vector<Finding> check_path(const std::string& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return check_bytes(read_file(path), path);
  Findings all;
  for (const std::string& file : files_below(path)) {
    const Findings found = check_bytes(read_file(file), file);
    all.insert(all.end(), found.begin(), found.end());
  }
  if (all.empty()) all.push_back({Severity::problem, {path}, "the folder holds no files"});
  return all;
}

}  // namespace formwork

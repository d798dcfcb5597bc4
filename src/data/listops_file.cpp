#include "data/listops_file.h"

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "data/delimited.h"
#include "data/file.h"

namespace formwork {
namespace {

std::optional<ListopsSample> parse_row(const std::vector<Field>& fields, Problems& problems,
                                       ListopsTrust trust) {
  const DataPlace& start = fields[0].place;
  const DataPlace row{start.file, start.line, 0, start.byte};
  if (fields.size() != 2) {
    problems.add(row, join_text("has ", fields.size(),
                                " columns, 2 are needed (Source and Target, separated by a tab)"));
    return std::nullopt;
  }
  ListopsSample sample;
  int64_t value = 0;
  try {
    sample.tokens = parse_listops(fields[0].text, "Source");
    value = listops_value(sample.tokens, "Source");
  } catch (const Error& error) {
    problems.add(start, error.what());
    return std::nullopt;
  }
  const std::string& label = fields[1].text;
  if (label.size() != 1 || label[0] < '0' || label[0] > '9') {
    problems.add(fields[1].place, join_text("Target is ", shown(label), ", 0 to 9 is needed"));
    return std::nullopt;
  }
  sample.label = label[0] - '0';
  if (trust == ListopsTrust::tokens) return sample;
  if (value != sample.label) {
    problems.add(fields[1].place,
                 join_text("Target is ", sample.label, ", but the tree's value is ", value));
  }
  if (fields[0].text != listops_text(sample.tokens)) {
    problems.add(start, "Source is not in the official form (left-nested parentheses)");
  }
  return sample;
}

}  // namespace

std::string listops_file_name(Split split) {
  const std::string_view name = split == Split::validation ? "val" : split_name(split);
  return join_text("basic_", name, ".tsv");
}

std::vector<ListopsSample> parse_listops_tsv(std::string_view text, const std::string& file,
                                             Problems& problems, ListopsTrust trust) {
  DelimitedReader reader(text, '\t', file);
  std::vector<Field> fields;
  if (!reader.next(fields)) refuse_at({file}, "is empty, the header Source<TAB>Target is needed");
  if (fields.size() != 2 || fields[0].text != "Source" || fields[1].text != "Target") {
    refuse_at(fields[0].place, "the header is ", shown(fields[0].text), " with ", fields.size(),
              " columns, Source<TAB>Target is needed");
  }
  std::vector<ListopsSample> samples;
  while (reader.next(fields)) {
    if (auto sample = parse_row(fields, problems, trust)) samples.push_back(std::move(*sample));
  }
  return samples;
}

std::vector<ListopsSample> read_listops_tsv(const std::string& path) {
  Problems strict;
  std::vector<ListopsSample> samples = parse_listops_tsv(read_filled_file(path), path, strict);
  check(!samples.empty(), path, "has a header but no rows");
  return samples;
}

void write_listops_tsv(const std::vector<ListopsSample>& samples,
                       const std::function<void(std::string_view)>& write) {
  std::string buffer = "Source\tTarget\r\n";
  for (const ListopsSample& sample : samples) {
    buffer += join_text(listops_text(sample.tokens), "\t", sample.label, "\r\n");
    if (buffer.size() < size_t{1} << 20) continue;
    write(buffer);
    buffer.clear();
  }
  write(buffer);
}

}  // namespace formwork

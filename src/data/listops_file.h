// ListOps files in the Long Range Arena's format: TSV with CRLF line ends and the header
// Source<TAB>Target, called basic_train.tsv, basic_val.tsv and basic_test.tsv.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "data/listops.h"
#include "data/problem.h"

namespace formwork {

/// "basic_train.tsv", "basic_val.tsv" or "basic_test.tsv".
std::string listops_file_name(Split split);

/// What a reader believes: `tokens` only, or also that the target is the tree's value and the
/// parentheses are those of the official form (`everything`, as `data check` wants it).
enum class ListopsTrust { tokens, everything };

/// Samples of a TSV text; `file` names it in errors (file:line:column). Rows that cannot be used
/// go to `problems`.
std::vector<ListopsSample> parse_listops_tsv(std::string_view text, const std::string& file,
                                             Problems& problems,
                                             ListopsTrust trust = ListopsTrust::tokens);

/// Samples of a TSV file; the first problem is an error.
std::vector<ListopsSample> read_listops_tsv(const std::string& path);

/// Gives samples in exactly the official format to `write`, part by part: a full training file has
/// half a gigabyte.
void write_listops_tsv(const std::vector<ListopsSample>& samples,
                       const std::function<void(std::string_view)>& write);

}  // namespace formwork

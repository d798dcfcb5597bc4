// What a data file is, and what is wrong with it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "data/problem.h"

namespace formwork {

/// Looks at a file, or at every file below a folder: finds out what each is (ListOps TSV, IDX,
/// gzip, CIFAR-10 binary, CSV, UTF-8 text or other bytes) and gives one summary for
/// each file that can be read, and its problems with their places. A missing path is an Error.
std::vector<Finding> check_path(const std::string& path);

/// The same for the bytes of one file; its name helps to tell formats apart.
std::vector<Finding> check_bytes(std::string_view bytes, const std::string& file);

}  // namespace formwork

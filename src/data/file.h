// Whole files and folders of files.
#pragma once

#include <string>
#include <vector>

namespace formwork {

/// The bytes of a regular file. A missing or unreadable file, or a folder, is refused by name.
std::string read_file(const std::string& path);

/// As read_file, and refuses an empty file.
std::string read_filled_file(const std::string& path);

/// All regular files below `folder`, sorted by path; names that begin with a dot are left out.
std::vector<std::string> files_below(const std::string& folder);

}  // namespace formwork

#include "data/file.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "core/error.h"

namespace formwork {

namespace fs = std::filesystem;

std::string read_file(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  check(fs::exists(status), path, "there is no such file");
  check(!fs::is_directory(status), path, "is a folder, a file is needed");
  check(fs::is_regular_file(status), path, "is not a regular file");
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"),
                                                             &std::fclose);
  check(file != nullptr, path, "cannot open it: ", std::generic_category().message(errno));
  std::string bytes;
  const uintmax_t expected = fs::file_size(path, error);
  if (!error) bytes.reserve(expected);
  constexpr size_t kChunk = size_t{1} << 20;
  size_t got = 0;
  do {
    const size_t size = bytes.size();
    bytes.resize(size + kChunk);
    got = std::fread(bytes.data() + size, 1, kChunk, file.get());
    bytes.resize(size + got);
  } while (got == kChunk);
  check(std::ferror(file.get()) == 0, path, "cannot read it");
  return bytes;
}

std::string read_filled_file(const std::string& path) {
  std::string bytes = read_file(path);
  check(!bytes.empty(), path, "is empty");
  return bytes;
}

std::vector<std::string> files_below(const std::string& folder) {
  std::vector<std::string> files;
  std::error_code error;
  fs::recursive_directory_iterator at(folder, error);
  check(!error, folder, "cannot read the folder: ", error.message());
  while (at != fs::recursive_directory_iterator()) {
    const bool hidden = at->path().filename().string().starts_with('.');
    if (hidden && at->is_directory(error)) at.disable_recursion_pending();
    if (!hidden && at->is_regular_file(error)) files.push_back(at->path().string());
    at.increment(error);
    check(!error, folder, "cannot read the folder: ", error.message());
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace formwork

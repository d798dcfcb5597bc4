#include "kernels/matmul_memory.h"

#include <ATen/Parallel.h>
#include <fcntl.h>
#include <torch/version.h>
#include <unistd.h>

#include <cctype>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <memory>
#include <sstream>

#include "core/processor.h"

namespace formwork {
namespace {

namespace fs = std::filesystem;

fs::path cache_folder() {
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache && *cache == '/')
    return fs::path(cache) / "formwork";
  if (const char* home = std::getenv("HOME"); home && *home == '/')
    return fs::path(home) / ".cache" / "formwork";
  return {};
}

/// "AMD EPYC 7763" as amd-epyc-7763.
std::string file_word(const std::string& text) {
  std::string word;
  for (const char c : text)
    if (std::isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '+')
      word += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    else if (!word.empty() && word.back() != '-')
      word += '-';
  return word.empty() ? "unknown" : word;
}

std::string file_of_threads(int threads) {
  const fs::path folder = cache_folder();
  if (folder.empty()) return "";
  return (folder / ("matmul-" + file_word(processor_name()) + "-torch-" + file_word(TORCH_VERSION) +
                    "-threads-" + std::to_string(threads) + ".txt"))
      .string();
}

}  // namespace

MatmulMemory& MatmulMemory::of_this_machine() {
  static std::mutex mutex;
  static std::map<int, std::unique_ptr<MatmulMemory>> memories;
  const std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<MatmulMemory>& memory = memories[at::get_num_threads()];
  if (!memory) memory = std::make_unique<MatmulMemory>(file_of_threads(at::get_num_threads()));
  return *memory;
}

MatmulMemory::MatmulMemory(std::string file) : file_(std::move(file)) {
  read();
}

void MatmulMemory::read() {
  if (file_.empty()) return;
  std::ifstream in(file_);
  for (std::string line; std::getline(in, line);) {
    const size_t colon = line.find(": ");
    if (colon == std::string::npos || in.eof()) continue;  // without its end: half written
    char* end = nullptr;
    const double speedup = std::strtod(line.c_str() + colon + 2, &end);
    if (*end == '\0' && std::isfinite(speedup) && speedup > 0.0)
      known_.emplace(line.substr(0, colon), speedup);
  }
}

std::optional<double> MatmulMemory::find(const std::string& shape) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = known_.find(shape);
  return found == known_.end() ? std::nullopt : std::optional<double>(found->second);
}

double MatmulMemory::keep(const std::string& shape, double speedup) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::ostringstream line;
  line << shape << ": " << std::setprecision(4) << speedup << '\n';
  if (add(line.str())) read();
  return known_.emplace(shape, 1.0).first->second;
}

/// One write of a short line: lines of several processes do not mix.
bool MatmulMemory::add(const std::string& line) const {
  if (file_.empty()) return false;
  std::error_code ignored;
  fs::create_directories(fs::path(file_).parent_path(), ignored);
  const int out = ::open(file_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (out < 0) return false;
  const bool written = ::write(out, line.data(), line.size()) == static_cast<ssize_t>(line.size());
  ::close(out);
  return written;
}

}  // namespace formwork

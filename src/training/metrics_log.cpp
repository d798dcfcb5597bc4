#include "training/metrics_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "formats/atomic_file.h"
#include "formats/json.h"

namespace formwork {
namespace {

std::string reason() {
  return std::generic_category().message(errno);
}

std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) fail(path, "cannot be read");
  return {std::istreambuf_iterator<char>(in), {}};
}

/// Calls `see(line, object)` for each complete line that is an object; `line` ends in a newline.
template <class See>
void each_line(const std::string& text, const std::string& path, const See& see) {
  size_t begin = 0;
  for (size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const std::string_view line = std::string_view(text).substr(begin, end + 1 - begin);
    Value object;
    try {
      object = parse_json(line, path);
    } catch (const Error&) {
      continue;
    }
    if (object.get<Table>()) see(line, std::move(object));
  }
}

int open_to_append(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (descriptor < 0) fail(path, "cannot be opened: ", reason());
  return descriptor;
}

}  // namespace

MetricsLog::MetricsLog(const std::string& path) : path_(path), descriptor_(open_to_append(path)) {}

MetricsLog::MetricsLog(MetricsLog&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

MetricsLog::~MetricsLog() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void MetricsLog::append(const Value& line) {
  const Value* step = line.find("step");
  if (!step || !step->get<int64_t>()) fail(path_, "a line needs an integer \"step\"");
  const std::string text = write_json(line) + "\n";
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t count = ::write(descriptor_, text.data() + done, text.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0)
      fail(path_, "cannot be written: ", reason(), ", ", text.size() - done, " bytes are needed");
    done += static_cast<size_t>(count);
  }
}

void MetricsLog::sync() {
  while (::fsync(descriptor_) != 0) {
    if (errno == EINTR) continue;
    if (errno == EINVAL || errno == ENOTSUP) return;  // not a file that can be synced
    fail(path_, "cannot be synced to disk: ", reason());
  }
}

void MetricsLog::rewind(int64_t step) {
  const std::string text = read_text(path_);
  std::string kept;
  each_line(text, path_, [&](std::string_view line, const Value& object) {
    const Value* at = object.find("step");
    if (at && at->get<int64_t>() && *at->get<int64_t>() <= step) kept += line;
  });
  if (kept == text) return;
  write_file_atomically(path_, kept);
  ::close(std::exchange(descriptor_, -1));  // the file it names is replaced
  descriptor_ = open_to_append(path_);
}

std::vector<Value> read_metrics(const std::string& path) {
  std::vector<Value> lines;
  each_line(read_text(path), path,
            [&](std::string_view, Value object) { lines.push_back(std::move(object)); });
  return lines;
}

}  // namespace formwork

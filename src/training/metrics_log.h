// metrics.jsonl: one JSON object a line, in the order of the steps.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/value.h"

namespace formwork {

/// Appends lines to a file. Each line reaches the system in one write, so that a reader (or a crash
/// of this process) sees whole lines. Errors (Fault::failure) name the file and the reason.
class MetricsLog {
 public:
  /// Opens `path` for appending, made where it is missing.
  explicit MetricsLog(const std::string& path);
  ~MetricsLog();
  MetricsLog(MetricsLog&& other) noexcept;
  MetricsLog(const MetricsLog&) = delete;
  MetricsLog& operator=(const MetricsLog&) = delete;

  /// Appends one object; it needs an integer "step".
  void append(const Value& line);
  /// Puts what was appended on disk.
  void sync();
  /// Cuts off all lines after `step`, and lines that are no JSON object (a crash of the machine may
  /// leave a torn last line). A training that goes on from `step` writes them again.
  void rewind(int64_t step);

 private:
  std::string path_;
  int descriptor_ = -1;
};

/// The objects of a metrics file, without lines that are no JSON object.
std::vector<Value> read_metrics(const std::string& path);

}  // namespace formwork

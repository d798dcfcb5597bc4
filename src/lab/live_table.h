// A comparison while it runs: a table redrawn on a terminal, plain lines elsewhere.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "lab/runner.h"
#include "training/run.h"

namespace formwork {

class LiveTable {
 public:
  LiveTable(const Plan& plan, const Console& console);
  /// Takes the table away; what comes next stands where it was.
  ~LiveTable();
  LiveTable(const LiveTable&) = delete;
  LiveTable& operator=(const LiveTable&) = delete;

  /// `progress` in the order of Runner::places(): the first seed of all variants, then the next.
  void show(const std::vector<RunProgress>& progress);
  void event(const RunEvent& event);

 private:
  void clear();

  const Plan& plan_;
  Console console_;
  size_t drawn_ = 0;  // lines on the screen
  std::chrono::steady_clock::time_point begun_, told_;
  double first_fraction_ = -1.0;  // of all work, when this began
};

/// The table's lines: a row a variant, a column a seed (or one for all seeds where that would be
/// wider than `width`), and how much is done. `left` is in seconds, negative where unknown.
std::vector<std::string> live_lines(const Plan& plan, const std::vector<RunProgress>& progress,
                                    size_t width, double left);

}  // namespace formwork

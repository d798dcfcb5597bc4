// A static site about every registered method, made from the registrations, so that it cannot tell
// of what is not there.
#pragma once

#include <functional>
#include <string>

#include "core/value.h"

namespace formwork {

struct MethodPagesRequest {
  std::string folder;    // made where it is missing; files of the same names are replaced
  std::string results;   // folder of `formwork claims` whose verdicts are shown; empty: none
  bool measure = false;  // time every method on this machine
  /// Called before each method with how many are done and how many there are; may be empty.
  std::function<void(int64_t done, int64_t all, const std::string& name)> progress;
};

/// Writes index.html (by axis and by paper) and AXIS/NAME.html for each method: what it does, its
/// options, its paper, what it combines with, how it is checked and, where measured, what it costs.
/// All links between them are relative. Returns how many methods were written.
int64_t write_method_pages(const MethodPagesRequest& request);

}  // namespace formwork

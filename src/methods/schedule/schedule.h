// Axis "schedule": the learning rate over the course of training.
#pragma once

#include "core/registry.h"

namespace formwork {

struct ScheduleSite {};

class Schedule {
 public:
  static constexpr const char* kAxis = "schedule";
  using Context = ScheduleSite;
  struct Traits {
    bool constant = false;    // constant after the warm-up
    bool needs_total = true;  // uses the planned number of steps
  };

  virtual ~Schedule() = default;
  /// Factor on the learning rate at step s = 0, 1, ... of `total` planned steps (an estimate where
  /// the budget is time); steps past the total give the last value.
  virtual double factor(int64_t step, int64_t total) const = 0;
};

}  // namespace formwork

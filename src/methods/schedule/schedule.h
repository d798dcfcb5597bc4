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
  /// the budget is time; 0 = unknown); steps past the total give the value at the total.
  double factor(int64_t step, int64_t total) const;

 protected:
  /// The factor at step s, 0 <= s <= total where the total is known.
  virtual double shape(double step, double total) const = 0;
};

/// The option that most schedules share.
struct WarmupOptions {
  int64_t warmup = 0;
  void describe(OptionSet& set);
};

/// min(1, s/W): the first step does not move. 1 for W = 0.
double warmup_from_zero(double step, int64_t warmup);
/// min(1, (s+1)/W): step W-1 is the first at full rate. 1 for W = 0.
double warmup_from_one(double step, int64_t warmup);
/// Where `step` stands between `from` (0) and `to` (1); 1 where the two coincide.
double progress(double step, double from, double to);
/// Half a cosine wave from 1 at x = 0 to `low` at x = 1.
double cosine_descent(double x, double low);

}  // namespace formwork

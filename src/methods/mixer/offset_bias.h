// A trained bias of attention that depends on key minus query, as kernel_rpe uses it.
#pragma once

#include <string>

#include "methods/module.h"

namespace formwork {

struct OffsetBiasOptions {
  std::string kind = "table";  // table, t5_bucket, exponential, none
  int64_t max_distance = 1;    // of kind table
  bool causal = false;
};

/// b_r for each head, r = key - query.
class OffsetBias final : public Module {
 public:
  OffsetBias(const OffsetBiasOptions& options, int64_t heads);

  /// relative (int64, any shape) → [H, ...] of `type`.
  Tensor of(const Tensor& relative, at::ScalarType type) const;
  /// Whether b_r = -rate |r|: attention over the past then has a state of fixed size.
  bool recurrent() const { return options_.kind == "exponential" || options_.kind == "none"; }
  /// [H] of `type`, >= 0.
  Tensor rate(at::ScalarType type) const;
  /// c_r = exp(b_r) [H,2N-1], entry N-1+r, times a factor for each head that makes the largest 1.
  /// Causal: 0 for r > 0.
  Tensor factors(int64_t n, at::ScalarType type) const;

 private:
  OffsetBiasOptions options_;
  int64_t heads_;
  Tensor table_;  // rel_bias [H,2 max_distance - 1] or [H,buckets]
  Tensor decay_;  // [H]
};

}  // namespace formwork

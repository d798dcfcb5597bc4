// Axis "norm": how the vectors of a token are brought to scale.
#pragma once

#include "core/registry.h"
#include "methods/module.h"

namespace formwork {

/// Where a norm stands.
struct NormSite {
  int64_t width = 0;
  RandomStream random{0};
};

/// x [..., D] → [..., D], token by token (norms with batch statistics use `valid`).
class Norm : public Module {
 public:
  static constexpr const char* kAxis = "norm";
  using Context = NormSite;
  struct Traits {
    bool per_token = true;   // statistics of one token only: padding and order cannot matter
    bool normalises = true;  // false for none and for pointwise functions
  };

  /// `valid` [B,N] bool or undefined: which tokens count in statistics over the batch.
  virtual Tensor forward(const Tensor& x, const Tensor& valid = {}) = 0;
  /// The scale [D] or [1] the norm multiplies with, or undefined.
  virtual Tensor gain() const { return {}; }
};

}  // namespace formwork

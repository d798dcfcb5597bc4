// Axis "norm": how the vectors of a token are brought to scale.
#pragma once

#include <optional>

#include "core/registry.h"
#include "kernels/rms_norm.h"
#include "methods/module.h"

namespace formwork {

/// Where a norm stands.
struct NormSite {
  int64_t width = 0;
  RandomStream random{0};
};

/// y = scale · x + shift, channel by channel. Both [D].
struct Affine {
  Tensor scale, shift;
};

/// A layer norm taken apart: y = (x - mean) / sqrt(variance + eps) · gain + shift. Gain and shift
/// [D] or undefined.
struct LayerNormParts {
  double eps = 0.0;
  Tensor gain, shift;
};

/// x [..., D] → [..., D], token by token (norms with batch statistics use `valid`).
class Norm : public Module {
 public:
  static constexpr const char* kAxis = "norm";
  using Context = NormSite;
  struct Traits {
    bool per_token = true;   // statistics of one token only: padding and order cannot matter
    bool normalises = true;  // false for none and for pointwise functions
    // false where backward follows a rule of the method's own instead of the derivative
    bool exact_gradient = true;
  };

  /// `valid` [B,N] bool or undefined: which tokens count in statistics over the batch.
  virtual Tensor forward(const Tensor& x, const Tensor& valid = {}) = 0;
  /// The norm of x + branch, and the sum; fused where the norm can.
  virtual AddedNorm add(const Tensor& x, const Tensor& branch, const Tensor& valid = {}) {
    const Tensor sum = x + branch;
    return {sum, forward(sum, valid)};
  }
  /// The scale [D] or [1] the norm multiplies with, or undefined.
  virtual Tensor gain() const { return {}; }
  /// What forward computes in inference when that needs nothing of x (running statistics), so that
  /// it can be folded into the neighbouring linear maps; nothing for the others.
  virtual std::optional<Affine> folded() const { return std::nullopt; }
  /// The parts of a layer norm, for conversions that take the mean out at its sources; nothing for
  /// the others.
  virtual std::optional<LayerNormParts> layer_norm_parts() const { return std::nullopt; }
};

}  // namespace formwork

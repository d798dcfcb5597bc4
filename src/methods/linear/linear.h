// Axis "linear": how a linear map is represented.
#pragma once

#include <string>

#include "core/registry.h"
#include "kernels/activation.h"
#include "kernels/packed_linear.h"
#include "methods/module.h"

namespace formwork {

/// How weights start. Residual-writing roles (output, down) may be scaled by 1/sqrt(2 L).
struct InitOptions {
  std::string kind = "normal";
  double deviation = 0.02;
  bool scale_residual = true;
  void describe(OptionSet& o);
};
/// A weight [out, in] by the rule; `depth` is L.
Tensor initial_weight(const InitOptions& init, int64_t out, int64_t in, Role role, int64_t depth,
                      const RandomStream& random);

/// Where a linear map stands.
struct LinearSite {
  int64_t in = 0, out = 0;
  bool bias = false;
  Role role = Role::other;
  int64_t depth = 1;
  InitOptions init;
  RandomStream random{0};
};

/// y = x Wᵀ + b for some representation of W. x [..., in] → [..., out].
class Linear : public Module {
 public:
  static constexpr const char* kAxis = "linear";
  using Context = LinearSite;
  struct Traits {
    bool exact_weight = true;  // weight() is what forward multiplies with
    bool head = false;         // represents an untied head too; others leave it a plain matrix
  };

  virtual Tensor forward(const Tensor& x) = 0;
  /// f(forward(x)), for maps that can save a pass over memory.
  virtual Tensor activated(const Tensor& x, Activation f) { return activate(forward(x), f); }
  /// The dense matrix [out, in] it stands for.
  virtual Tensor weight() const = 0;
  /// [out], or undefined.
  virtual Tensor bias() const = 0;
  /// Holds W in `form` from now on, for decoding, and gives its float32 back: forward multiplies
  /// with the rounded matrix and refuses gradients, weight() makes that matrix anew each time, and
  /// it is no parameter any more. False, with nothing changed, where W is not kept as one float32
  /// matrix.
  virtual bool pack(PackedForm) { return false; }
  /// Keeps a copy of W as it is now in the order that products want, where that is faster, for
  /// passes without gradients over many tokens; of no more use once W or its type changes.
  virtual void lay_out() {}
  /// Bytes of the weight that forward reads.
  virtual int64_t weight_bytes() const { return static_cast<int64_t>(weight().nbytes()); }
};

}  // namespace formwork

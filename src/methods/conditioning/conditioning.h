// Axis "conditioning": what is done to the embedded tokens before the first layer.
#pragma once

#include "core/registry.h"
#include "methods/site.h"
#include "methods/stream.h"

namespace formwork {

/// A conditioning's surroundings.
struct ConditioningSite : Site {
  int64_t patch_width = 0;  // numbers in each of the stem's patches; 0 = it leaves none
};

class Conditioning : public Module {
 public:
  static constexpr const char* kAxis = "conditioning";
  using Context = ConditioningSite;
  struct Traits {
    bool causal = true;          // keeps the future out
    bool class_token = true;     // acts on the class token too, where there is one
    bool continuous = false;     // needs tokens made of numbers, not looked up in a table
    bool patches = false;        // needs a stem that leaves its patches in the stream
    bool exact_gradient = true;  // the backward pass is the derivative of the forward pass
  };

  /// x [B,N,D] → [B,N,D].
  virtual Tensor forward(const Tensor& x, Stream& stream) = 0;
};

}  // namespace formwork

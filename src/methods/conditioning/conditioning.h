// Axis "conditioning": what is done to the embedded tokens before the first layer.
#pragma once

#include "core/registry.h"
#include "methods/site.h"
#include "methods/stream.h"

namespace formwork {

class Conditioning : public Module {
 public:
  static constexpr const char* kAxis = "conditioning";
  using Context = Site;
  struct Traits {
    bool causal = true;       // keeps the future out
    bool continuous = false;  // needs tokens made of numbers, not looked up in a table
    bool patches = false;     // needs a stem that leaves its patches in the stream
  };

  /// x [B,N,D] → [B,N,D].
  virtual Tensor forward(const Tensor& x, Stream& stream) = 0;
};

}  // namespace formwork

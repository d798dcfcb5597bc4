// Axis "channel": what happens inside a token.
#pragma once

#include "core/registry.h"
#include "methods/site.h"
#include "methods/stream.h"

namespace formwork {

class Channel : public Module {
 public:
  static constexpr const char* kAxis = "channel";
  using Context = Site;
  struct Traits {
    bool present = true;  // false: the sublayer is left out altogether
  };

  /// x [B,N,D], already normed → [B,N,D]. Must not mix tokens.
  virtual Tensor forward(const Tensor& x, Stream& stream) = 0;
};

}  // namespace formwork

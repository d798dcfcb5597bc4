// Axis "depth": which parameters serve which layer.
#pragma once

#include <functional>

#include "core/registry.h"
#include "methods/site.h"
#include "methods/stream.h"

namespace formwork {

/// `blocks` sets of parameters, applied in `order` (entries 0..blocks-1, one an application).
struct DepthPlan {
  int64_t blocks = 0;
  std::vector<int64_t> order;
};

class Depth : public Module {
 public:
  static constexpr const char* kAxis = "depth";
  using Context = Site;
  struct Traits {
    bool decodes = true;
  };

  virtual DepthPlan plan(int64_t depth) const = 0;
  /// Application i of the plan: `block` runs its block on the stream. Override to do something
  /// before or after it that belongs to it: activation checkpointing runs both again.
  virtual void apply(Stream& stream, int64_t application, const std::function<void()>& block) {
    (void)stream, (void)application;
    block();
  }
  /// The module of the plan's own that application i runs beside its block, or null.
  virtual Module* part(int64_t application) {
    (void)application;
    return nullptr;
  }
  /// Applies the blocks: apply(i) runs application i of the plan on the stream. Override to do
  /// something between them.
  virtual void run(Stream& stream, const std::function<void(int64_t application)>& apply,
                   int64_t applications) {
    (void)stream;
    for (int64_t i = 0; i < applications; ++i) apply(i);
  }
};

}  // namespace formwork

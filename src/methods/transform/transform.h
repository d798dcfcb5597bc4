// Axis "transform": model in, model out, the same function computed in another form.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/registry.h"
#include "methods/module.h"

namespace formwork {

/// A model taken apart: what a transform gives back, and what a model is built from again.
struct ModelParts {
  Value options;                          // the settled table [model] of a recipe
  std::map<std::string, Tensor> tensors;  // parameters and buffers by name
  std::vector<std::string> notes;         // what the user should know, a sentence each
};

/// Transforms need nothing of their surroundings.
struct TransformSite {};

class Transform {
 public:
  static constexpr const char* kAxis = "transform";
  using Context = TransformSite;
  struct Traits {};

  virtual ~Transform() = default;
  /// The parts of the converted model. `model` is in evaluation mode and float64, so that rounding
  /// cannot hide a mistake; `options` is its settled table [model]. The model is left as it was.
  /// What cannot be converted is refused by the module's name, with the reason.
  virtual ModelParts apply(Module& model, const Value& options) const = 0;
};

}  // namespace formwork

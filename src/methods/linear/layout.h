// Weights in the order that products want them, for inference.
#pragma once

#include "methods/module.h"

namespace formwork {

/// What a linear map is too where it can lay out its weight.
class LaidOut {
 public:
  virtual ~LaidOut() = default;
  /// Keeps a copy of the weight as it is now in the order that products want, where that is faster,
  /// for passes without gradients over many tokens; of no more use once the weight or its type
  /// changes.
  virtual void lay_out() = 0;
};

/// LaidOut::lay_out for every linear map below `model`.
void lay_out_weights(Module& model);

}  // namespace formwork

// How fast this machine multiplies matrices, for benches that say what bounds them.
#pragma once

#include <ATen/core/Tensor.h>

namespace formwork {

/// The best rate that a library reaches here at one large float32 product.
class ProductMeter {
 public:
  ProductMeter();
  /// Measures once more by each library; the best so far, in GFLOP/s of all threads together.
  double measure();

 private:
  at::Tensor a_, b_;
  double best_ = 0.0;
};

}  // namespace formwork

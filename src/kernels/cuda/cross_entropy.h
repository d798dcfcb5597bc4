// Cross-entropy of rows of logits, which become their own gradient; see
// kernels/projected_cross_entropy.h.
#pragma once

#include "kernels/cuda/common.h"

namespace formwork::FORMWORK_CUDA {

/// Row r's loss is lse - (1-e) l_t - e mean(l) + z lse² with lse = log sum exp l, and 0 where the
/// target t is negative.
struct CrossEntropy {
  Element element = Element::float32;
  int64_t rows = 0, classes = 0;
  void* logits = nullptr;  // [rows, classes], rows `stride` apart
  int64_t stride = 0;
  const int64_t* target = nullptr;  // [rows]
  float smoothing = 0.0f, z_loss = 0.0f;
  float* losses = nullptr;    // [rows]
  bool differentiate = true;  // write the losses' gradients over the logits
};
Status cross_entropy(const CrossEntropy& rows, Stream stream);

}  // namespace formwork::FORMWORK_CUDA

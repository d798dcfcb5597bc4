// The gradient of a table of embeddings, only of the rows that were looked up.
#pragma once

#include "kernels/cuda/common.h"

namespace formwork::FORMWORK_CUDA {

/// rows[s] = the sum of gradient[order[i]] for i from starts[s] to starts[s + 1] - 1, in that
/// order: the gradient of the s-th token that occurs, where `order` lists the places of a text
/// sorted by token. gradient [places,D], rows [segments,D] float32, both contiguous.
struct SegmentSums {
  Element element = Element::float32;
  int64_t segments = 0, width = 0;
  const void* gradient = nullptr;
  const int64_t* order = nullptr;
  const int64_t* starts = nullptr;  // [segments + 1]
  float* rows = nullptr;
};
Status segment_sums(const SegmentSums& sums, Stream stream);

}  // namespace formwork::FORMWORK_CUDA

// The buckets of T5's relative positions.
#pragma once

#include <ATen/core/Tensor.h>

namespace formwork {

/// relative (key minus query, int64, any shape) → bucket in [0, buckets), same shape: exact for
/// short distances, logarithmic up to `max_distance`, all farther ones together. Bidirectional:
/// the upper half of the buckets is for keys after the query; otherwise those share bucket 0.
at::Tensor t5_bucket(const at::Tensor& relative, bool bidirectional, int64_t buckets,
                     int64_t max_distance);

}  // namespace formwork

// Softmax attention of few queries: keys and values are read once, where they lie.
#pragma once

#include <cstdint>

namespace formwork {

/// Rows of one head in a tensor, `stride` elements from row to row; bfloat16 as its 16 bits.
template <class T>
struct StreamRows {
  const T* data;
  int64_t stride;
  int64_t count, channels;
};

/// For each type of keys and values. Queries are float32 rows [queries][channels].
template <class T>
struct StreamProducts {
  /// scores [queries][stride]: q · k for every key.
  void (*scores)(const float* queries, int64_t count, const StreamRows<T>& keys, float* scores,
                 int64_t stride);
  /// out [queries][channels]: Σ weight · value.
  void (*mix)(const float* weights, int64_t stride, int64_t count, const StreamRows<T>& values,
              float* out);
};

struct AttentionStream {
  /// Scores in base 2 become weights 2^(score - most); their sum is the result, `most` the largest
  /// score, 0 where all are closed.
  float (*weigh)(float* scores, int64_t count, float& most);
  StreamProducts<float> float32;
  StreamProducts<uint16_t> bfloat16;
};

}  // namespace formwork

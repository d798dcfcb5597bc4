// Rotary positions of rows that attention packs.
#pragma once

#include "kernels/attention.h"
#include "kernels/rotate.h"

namespace formwork::cpu {

/// Turns packed rows of queries and keys by their places, if a rule says so: the keys' places are
/// 0 .. Nk-1 and the last query has the last.
class Turn {
 public:
  explicit Turn(const AttentionRule& rule) : rule_(rule) {}
  explicit operator bool() const { return rule_.cosine.defined(); }

  /// Rows [count][stride] with places from `first` on; `backwards` for their gradients.
  void operator()(float* rows, int64_t stride, int64_t count, int64_t batch, int64_t first,
                  bool backwards = false) const {
    if (!*this) return;
    const at::Tensor& cosine = rule_.cosine;  // [Nk,d/2] or [B,1,Nk,d/2]
    const int64_t half = cosine.size(-1), places = cosine.size(-2);
    const int64_t start = ((cosine.dim() == 4 ? batch * places : 0) + first) * half;
    const float* cosines = cosine.data_ptr<float>() + start;
    const float* sines = rule_.sine.data_ptr<float>() + start;
    for (int64_t n = 0; n < count; ++n)
      turn_row(rows + n * stride, cosines + n * half, sines + n * half, half, rule_.pairing,
               backwards);
  }

 private:
  const AttentionRule& rule_;
};

}  // namespace formwork::cpu

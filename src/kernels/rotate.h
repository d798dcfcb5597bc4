// Rotation of pairs of channels, as rotary positions need it.
#pragma once

#include <ATen/core/Tensor.h>

namespace formwork {

/// Which channels of the first d form a pair: (c, c + d/2) or (2c, 2c + 1).
enum class Pairing { half, interleaved };

/// Each pair (r, s) → (r cos − s sin, s cos + r sin). x [..., K]; cosine and sine [..., d/2],
/// broadcast over the other dimensions, float64 for float64 x, else float32; channels from d on are
/// copied. The gradient with respect to x is the rotation by the negative angle; the tables get
/// none.
at::Tensor rotate_pairs(const at::Tensor& x, const at::Tensor& cosine, const at::Tensor& sine,
                        Pairing pairing);

/// The same by plain operators, on any device.
at::Tensor rotate_pairs_reference(const at::Tensor& x, const at::Tensor& cosine,
                                  const at::Tensor& sine, Pairing pairing);

namespace cpu {

/// The most dimensions of x that rotate_pairs here takes.
constexpr int64_t kMostRotatedDimensions = 5;

/// One pass over x, which is strided but for its last dimension; `backwards` turns by the negative
/// angle. The result has x's strides where x has no gaps.
at::Tensor rotate_pairs(const at::Tensor& x, const at::Tensor& cosine, const at::Tensor& sine,
                        Pairing pairing, bool backwards);

/// The first `half` pairs of one row, in place, with `half` cosines and sines.
void turn_row(float* row, const float* cosine, const float* sine, int64_t half, Pairing pairing,
              bool backwards);

}  // namespace cpu
}  // namespace formwork

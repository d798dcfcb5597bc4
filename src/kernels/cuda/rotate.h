// Rotation of pairs of channels; see kernels/rotate.h.
#pragma once

#include "kernels/cuda/common.h"

namespace formwork::FORMWORK_CUDA {

/// y = x [A,B,C,K] with the pairs of the first 2·half channels turned; y has strides of its own and
/// may be x itself. The tables [A,B,C,half] are float32 and broadcast where a stride is 0.
struct Rotation {
  Element element = Element::float32;
  int64_t sizes[3] = {1, 1, 1};
  int width = 0, half = 0;
  const void* x = nullptr;
  int64_t x_stride[3] = {0, 0, 0};
  void* y = nullptr;
  int64_t y_stride[3] = {0, 0, 0};
  const float* cosine = nullptr;
  const float* sine = nullptr;
  int64_t table_stride[3] = {0, 0, 0};
  bool interleaved = false;  // pairs (2c, 2c + 1) instead of (c, c + half)
  bool backwards = false;    // by the negative angle
};
Status rotate(const Rotation& rotation, Stream stream);

}  // namespace formwork::FORMWORK_CUDA

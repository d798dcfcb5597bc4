// The product of a gated linear unit: function(gate) · up.
#pragma once

#include "kernels/cuda/common.h"

namespace formwork::FORMWORK_CUDA {

/// The functions of methods/channel/activation.h that gates use.
enum class Gate { silu, gelu, gelu_tanh, relu, sigmoid, identity };

/// Rows of `width` numbers, each array's rows `stride` apart, so that gate and up may be halves of
/// one product.
struct Glu {
  Element element = Element::float32;
  Gate function = Gate::silu;
  int64_t rows = 0, width = 0;
  const void* gate = nullptr;
  const void* up = nullptr;
  int64_t stride = 0;  // of gate and up, and of their gradients
  void* y = nullptr;   // rows next to each other
};
Status glu_forward(const Glu& glu, Stream stream);

struct GluGradients {
  const void* y = nullptr;  // given: the gradient of y, rows next to each other
  void* gate = nullptr;
  void* up = nullptr;
};
Status glu_backward(const Glu& glu, const GluGradients& gradients, Stream stream);

}  // namespace formwork::FORMWORK_CUDA

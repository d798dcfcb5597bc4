// Gradients of tables of which a batch touches few rows.
#pragma once

#include <ATen/core/Tensor.h>

namespace formwork {

/// The numbers of a gradient that can be other than 0: itself, or its rows where it is sparse.
/// Shares memory with the gradient, if that is coalesced, as the trainer leaves them.
inline at::Tensor touched(const at::Tensor& gradient) {
  return gradient.is_sparse() ? gradient.coalesce()._values() : gradient;
}

}  // namespace formwork

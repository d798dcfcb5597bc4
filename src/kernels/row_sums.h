// Rows of a sparse gradient that belong together.
#pragma once

#include <ATen/core/Tensor.h>

namespace formwork {

/// A sparse tensor with every index once, in rising order: values of one index are added up, on a
/// GPU in the order of their places. [rows,D], as tables of embeddings have it for a gradient, by a
/// kernel there; all others by libtorch.
at::Tensor coalesced(const at::Tensor& sparse);

}  // namespace formwork

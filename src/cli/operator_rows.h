// The operators that `formwork bench ops` measures, and plain PyTorch's beside them.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <vector>

namespace formwork {

/// The tokens and channels that every operator's tensors are made from.
struct OperatorSizes {
  int64_t tokens = 4096, width = 768;
};

/// One operator on its tensors, and other ways to compute the same: PyTorch's, or all libraries'.
/// The backward pass is measured where one of the tensors wants a gradient.
struct OperatorRow {
  std::string name;
  std::vector<at::Tensor> tensors;  // read by a pass
  std::function<at::Tensor()> ours;
  std::vector<std::function<at::Tensor()>> peers;
  double bytes = 0.0;  // that a pass moves at least; 0 = its tensors, its result and its gradients
};

/// All of them. One entry a row: this is where a new operator is added.
std::vector<OperatorRow> operator_rows(const OperatorSizes& sizes);

}  // namespace formwork

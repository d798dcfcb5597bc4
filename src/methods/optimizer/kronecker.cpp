#include "methods/optimizer/kronecker.h"

#include <algorithm>

namespace formwork {

Tensor along(const Tensor& x, const Tensor& matrix, int64_t side) {
  return at::tensordot(x, matrix, {side}, {0}).movedim(-1, side);
}

Tensor gram(const Tensor& gradient, int64_t side) {
  const Tensor rows = gradient.movedim(side, 0).reshape({gradient.size(side), -1});
  return at::matmul(rows, rows.t());
}

std::pair<Tensor, Tensor> eigen(const Tensor& matrix) {
  const auto [values, vectors] = at::linalg_eigh(matrix.to(at::kCPU, at::kDouble));
  return {values.flip(0).to(matrix.options()), vectors.flip(1).to(matrix.options())};
}

bool has_side(const Tensor& value, int64_t side, int64_t largest, bool vectors) {
  if (side >= value.dim() || (value.dim() == 1 && !vectors)) return false;
  return value.size(side) <= largest && value.numel() > 0;
}

int64_t most_sides(const std::vector<Parameter>& parameters) {
  int64_t most = 0;
  for (const Parameter& parameter : parameters) most = std::max(most, parameter.tensor.dim());
  return most;
}

}  // namespace formwork

#include "methods/position/toeplitz.h"

#include <torch/csrc/autograd/custom_function.h>

namespace formwork {
namespace {

using at::Tensor;

/// Without it the gradient would go through one scattered addition an entry.
struct FromDiagonals : torch::autograd::Function<FromDiagonals> {
  static Tensor forward(torch::autograd::AutogradContext*, const Tensor& diagonals, int64_t keys) {
    return diagonals.unfold(1, keys, 1).flip(1);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext*,
                                                 const torch::autograd::variable_list& gradients) {
    const Tensor upside = gradients[0].flip(1);
    const int64_t heads = upside.size(0), queries = upside.size(1), keys = upside.size(2);
    const int64_t width = queries + keys;
    // Rows of width w read as rows of width w-1 shift by one each: diagonals become columns.
    const Tensor skewed = at::constant_pad_nd(upside, {0, queries})
                              .view({heads, queries * width})
                              .narrow(1, 0, queries * (width - 1))
                              .unflatten(1, {queries, width - 1});
    return {skewed.sum(1), Tensor()};
  }
};

}  // namespace

std::optional<int64_t> start_of_run(const Tensor& positions) {
  if (positions.dim() != 1 || positions.numel() == 0) return std::nullopt;
  const int64_t first = positions[0].item<int64_t>();
  const Tensor run = at::arange(first, first + positions.numel(), positions.options());
  if (!at::equal(positions, run)) return std::nullopt;
  return first;
}

Tensor relative_positions(const Tensor& query, const Tensor& key) {
  return key.unsqueeze(-2) - query.unsqueeze(-1);
}

Tensor from_diagonals(const Tensor& diagonals, int64_t queries, int64_t keys) {
  TORCH_INTERNAL_ASSERT(diagonals.size(1) == queries + keys - 1);
  return FromDiagonals::apply(diagonals, keys);
}

}  // namespace formwork

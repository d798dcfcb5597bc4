// Score biases that depend on key minus query only.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace formwork {

/// The first position where `positions` is [N] with p, p+1, p+2 ...; nothing otherwise.
std::optional<int64_t> start_of_run(const at::Tensor& positions);

/// Key minus query: [Nq,Nk], or [B,Nq,Nk] where either has rows of its own.
at::Tensor relative_positions(const at::Tensor& query, const at::Tensor& key);

/// diagonals [H, Nq+Nk-1] → [H,Nq,Nk] with entry (i, j) = diagonals[Nq-1-i+j]. The gradient is
/// summed along each diagonal.
at::Tensor from_diagonals(const at::Tensor& diagonals, int64_t queries, int64_t keys);

}  // namespace formwork

// What Shampoo and SOAP share: one small square matrix for each side of a gradient.
#pragma once

#include <vector>

#include "methods/optimizer/optimizer.h"

namespace formwork {

/// x with `matrix` [n, k] contracted along dimension `side` of size n, which becomes k.
Tensor along(const Tensor& x, const Tensor& matrix, int64_t side);
/// G Gᵀ over all dimensions but `side`: [n, n], n = gradient.size(side).
Tensor gram(const Tensor& gradient, int64_t side);
/// Eigenvalues, descending, and eigenvectors of a symmetric matrix; computed in float64 on the CPU,
/// so that they do not depend on the device, and returned in the type and place of `matrix`.
std::pair<Tensor, Tensor> eigen(const Tensor& matrix);
/// Whether the sides of `value` are preconditioned: up to `largest` wide, vectors only if asked.
bool has_side(const Tensor& value, int64_t side, int64_t largest, bool vectors);
/// The most dimensions that a parameter has.
int64_t most_sides(const std::vector<Parameter>& parameters);

}  // namespace formwork

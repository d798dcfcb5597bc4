// Recurrences with a matrix as their state, by chunks, beside the same token by token.
#include "kernels/matrix_state.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "support/gradcheck.h"

namespace formwork::test {
namespace {

using at::Tensor;

struct ScanLeaves {
  Tensor q, k, v, g, start;
};

ScanLeaves scan_leaves(int64_t n, at::ScalarType type) {
  const auto leaf = [&](const Tensor& x) { return x.to(type).requires_grad_(true); };
  // Queries and keys as they come from a view, not contiguous; gates down to almost 0.
  const Tensor q = leaf(numbers({2, n, 3, 5}, 1)), k = leaf(numbers({2, n, 3, 5}, 2));
  return {q, k, leaf(numbers({2, 3, n, 4}, 3)), leaf(-numbers({2, 3, n}, 4).square() * 3),
          leaf(numbers({2, 3, 5, 4}, 5))};
}

/// y, the last state and all gradients.
std::vector<Tensor> scanned(int64_t n, int64_t chunk, at::ScalarType type, bool gated, bool state,
                            bool reference) {
  const ScanLeaves leaves = scan_leaves(n, type);
  Tensor sum = leaves.start;
  const MatrixState all{leaves.q.transpose(1, 2), leaves.k.transpose(1, 2), leaves.v,
                        gated ? leaves.g : Tensor(), state ? &sum : nullptr};
  const Tensor y = reference ? matrix_state_scan_reference(all) : matrix_state_scan(all, chunk);
  Tensor loss = (y * numbers({2, 3, n, 4}, 6).to(type)).sum();
  std::vector<Tensor> inputs{leaves.q, leaves.k, leaves.v}, found{y.detach()};
  if (gated) inputs.push_back(leaves.g);
  if (state) {
    inputs.push_back(leaves.start);
    loss = loss + sum.square().sum();
    found.push_back(sum.detach());
  }
  for (const Tensor& slope : torch::autograd::grad({loss}, inputs)) found.push_back(slope);
  return found;
}

TEST(property, kernels_matrix_state_is_exact) {
  for (const int64_t n : {1, 2, 7, 16, 33})
    for (const int64_t chunk : {1, 4, 16, 64})
      for (const bool gated : {false, true})
        for (const bool state : {false, true}) {
          const auto expected = scanned(n, chunk, at::kDouble, gated, state, true);
          const auto compare = [&](at::ScalarType type, double most) {
            const auto found = scanned(n, chunk, type, gated, state, false);
            ASSERT_EQ(found.size(), expected.size());
            for (size_t i = 0; i < found.size(); ++i) {
              const double size = std::max(expected[i].abs().max().item<double>(), 1e-3);
              const Tensor gap = (found[i].to(at::kDouble) - expected[i]).abs();
              EXPECT_LT(gap.max().item<double>() / size, most)
                  << n << " in chunks of " << chunk << ", gate " << gated << ", state " << state
                  << ", tensor " << i;
            }
          };
          compare(at::kDouble, 1e-13);
          compare(at::kFloat, 2e-6);
        }
}

TEST(property, kernels_matrix_state_forgets_all) {
  // A gate of 0 (log -infinity in effect) leaves each token with itself.
  const ScanLeaves leaves = scan_leaves(9, at::kDouble);
  const Tensor q = leaves.q.transpose(1, 2), k = leaves.k.transpose(1, 2);
  const Tensor y = matrix_state_scan({q, k, leaves.v, at::full({2, 3, 9}, -1e4, at::kDouble)}, 4);
  const Tensor own = (q * k).sum(-1, true) * leaves.v;
  EXPECT_LT((y - own).abs().max().item<double>(), 1e-14);
  EXPECT_EQ(
      matrix_state_scan({q.narrow(2, 0, 0), k.narrow(2, 0, 0), leaves.v.narrow(2, 0, 0)}).sizes(),
      at::IntArrayRef({2, 3, 0, 4}));
}

}  // namespace
}  // namespace formwork::test

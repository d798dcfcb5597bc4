// Gradients checked by central differences in float64.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace formwork {

struct GradientCheck {
  double step = 1e-5;         ///< times max(1, |value|)
  double relative = 1e-6;     ///< allowed difference, relative to the tensor's largest gradient
  double absolute = 1e-8;     ///< allowed where all gradients are small
  int64_t most_entries = 24;  ///< entries tried a tensor; more are sampled
  uint64_t seed = 1;          ///< of the cotangent and of the sample
};

/// By name, the leaves that a gradient is taken of: float64, requires_grad.
using NamedLeaves = std::vector<std::pair<std::string, at::Tensor>>;

/// "" where autograd's gradients of sum(f() * cotangent), with a random cotangent, agree with
/// central differences for every leaf; else one line that names the first entry that does not.
/// `f` reads the leaves and gives a float64 tensor; it must be deterministic. Leaves are changed
/// while it runs and restored; their gradients are left behind.
std::string gradient_mismatch(const std::function<at::Tensor()>& f, const NamedLeaves& leaves,
                              const GradientCheck& options = {});

/// A test's expectation of the same; `name` begins the message.
void expect_gradients(const std::string& name, const std::function<at::Tensor()>& f,
                      const NamedLeaves& leaves, const GradientCheck& options = {});

/// A float64 leaf with normal numbers that depend on the seed alone.
at::Tensor random_leaf(at::IntArrayRef shape, uint64_t seed);
/// The same numbers, not a leaf.
at::Tensor numbers(at::IntArrayRef shape, uint64_t seed);

}  // namespace formwork

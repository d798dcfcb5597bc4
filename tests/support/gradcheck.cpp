#include "support/gradcheck.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/random.h"

namespace formwork {
namespace {

at::Tensor normal_numbers(at::IntArrayRef shape, Random random) {
  at::Tensor result = at::empty(shape, at::kDouble);
  double* data = result.data_ptr<double>();
  for (int64_t i = 0; i < result.numel(); ++i) data[i] = random.normal();
  return result;
}

std::vector<int64_t> entries_to_try(int64_t count, const GradientCheck& options,
                                    const RandomStream& stream) {
  std::vector<int64_t> order = permutation(count, stream);
  order.resize(std::min(count, options.most_entries));
  return order;
}

}  // namespace

std::string gradient_mismatch(const std::function<at::Tensor()>& f, const NamedLeaves& leaves,
                              const GradientCheck& options) {
  const RandomStream stream(options.seed);
  for (const auto& [name, leaf] : leaves) {
    check(leaf.scalar_type() == at::kDouble && leaf.is_leaf() && leaf.requires_grad() &&
              leaf.is_contiguous(),
          name, "is no contiguous float64 leaf that requires a gradient");
    at::Tensor(leaf).mutable_grad() = at::Tensor();
  }
  const at::Tensor out = f();
  check(out.scalar_type() == at::kDouble, "gradient_mismatch", "f gives ", out.scalar_type(),
        "; valid: Double");
  const at::Tensor cotangent = normal_numbers(out.sizes(), stream.child("cotangent").random());
  (out * cotangent).sum().backward();
  const auto value = [&] {
    const c10::NoGradGuard no_grad;
    return (f() * cotangent).sum().item<double>();
  };
  for (const auto& [name, leaf] : leaves) {
    const at::Tensor gradient =
        leaf.grad().defined() ? leaf.grad().contiguous() : at::zeros_like(leaf);
    const double largest = gradient.numel() > 0 ? gradient.abs().max().item<double>() : 0.0;
    const double allowed = std::max(options.absolute, options.relative * largest);
    double* data = leaf.data_ptr<double>();
    for (const int64_t i : entries_to_try(leaf.numel(), options, stream.child(name))) {
      const double kept = data[i];
      const double step = options.step * std::max(1.0, std::fabs(kept));
      data[i] = kept + step;
      const double above = value();
      data[i] = kept - step;
      const double below = value();
      data[i] = kept;
      const double measured = (above - below) / (2.0 * step);
      const double claimed = gradient.data_ptr<double>()[i];
      // Written so that a NaN is a difference.
      if (std::fabs(measured - claimed) <= allowed) continue;
      return join_text(name, "[", i, "]: gradient ", claimed, ", by differences ", measured,
                       " (allowed ", allowed, ")");
    }
  }
  return "";
}

void expect_gradients(const std::string& name, const std::function<at::Tensor()>& f,
                      const NamedLeaves& leaves, const GradientCheck& options) {
  EXPECT_EQ(gradient_mismatch(f, leaves, options), "") << name;
}

at::Tensor random_leaf(at::IntArrayRef shape, uint64_t seed) {
  return numbers(shape, seed).requires_grad_(true);
}

at::Tensor numbers(at::IntArrayRef shape, uint64_t seed) {
  return normal_numbers(shape, Random(seed));
}

}  // namespace formwork

// Norms fused with the residual addition before them, beside the two steps in float64.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "kernels/layer_norm.h"
#include "support/gradcheck.h"

namespace formwork::test {
namespace {

using at::Tensor;

struct NormCase {
  const char* name;
  AddedNorm (*fused)(const Tensor& x, const Tensor& residual, const Tensor& weight,
                     const Tensor& bias);
  Tensor (*plain)(const Tensor& sum, const Tensor& weight, const Tensor& bias);
};

const NormCase kCases[] = {
    {"layer_norm",
     [](const Tensor& x, const Tensor& r, const Tensor& w, const Tensor& b) {
       return add_layer_norm(x, r, w, b, 1e-5);
     },
     [](const Tensor& x, const Tensor& w, const Tensor& b) {
       return at::layer_norm(x, {x.size(-1)}, w, b, 1e-5);
     }},
    {"layer_norm without a bias",
     [](const Tensor& x, const Tensor& r, const Tensor& w, const Tensor&) {
       return add_layer_norm(x, r, w, {}, 1e-5);
     },
     [](const Tensor& x, const Tensor& w, const Tensor&) {
       return at::layer_norm(x, {x.size(-1)}, w, {}, 1e-5);
     }},
    {"layer_norm alone",
     [](const Tensor& x, const Tensor& r, const Tensor&, const Tensor&) {
       return add_layer_norm(x, r, {}, {}, 1e-5);
     },
     [](const Tensor& x, const Tensor&, const Tensor&) {
       return at::layer_norm(x, {x.size(-1)}, {}, {}, 1e-5);
     }},
    {"rms_norm",
     [](const Tensor& x, const Tensor& r, const Tensor& w, const Tensor&) {
       return add_rms_norm(x, r, w, 1e-5);
     },
     [](const Tensor& x, const Tensor& w, const Tensor&) {
       return rms_norm_reference(x, w, 1e-5);
     }},
    {"crms_norm",
     [](const Tensor& x, const Tensor& r, const Tensor& w, const Tensor&) {
       return add_crms_norm(x, r, w, 1e-5);
     },
     [](const Tensor& x, const Tensor& w, const Tensor&) {
       return crms_norm_reference(x, w, 1e-5);
     }},
};

/// Which outputs a loss looks at.
enum class Seen { both, normed, sum };

/// sum, y and the gradients of x, residual, weight and bias (those there are); x not contiguous.
std::vector<Tensor> normed_with(const NormCase& norm, int64_t width, at::ScalarType type, Seen seen,
                                bool fused, bool twice = false) {
  std::vector<Tensor> leaves;
  const auto leaf = [&](at::IntArrayRef shape, uint64_t seed) {
    leaves.push_back(numbers(shape, seed).to(at::kBFloat16).to(type).requires_grad_(true));
    return leaves.back();
  };
  const Tensor x = leaf({90, 2, width}, 1).transpose(0, 1), residual = leaf({2, 90, width}, 2),
               weight = leaf({width}, 3), bias = leaf({width}, 4);
  AddedNorm result;
  if (fused) {
    result = norm.fused(x, residual, weight, bias);
  } else {
    result.sum = x + residual;
    result.y = norm.plain(result.sum, weight, bias);
  }
  const Tensor g = numbers({2, 90, width}, 5).to(type);
  Tensor loss = at::zeros({}, x.options());
  if (seen != Seen::sum) loss = loss + (result.y * g).sum();
  if (seen != Seen::normed) loss = loss + (result.sum * g * 0.5).sum();
  std::vector<Tensor> all{result.sum.detach(), result.y.detach()};
  for (const Tensor& slope : torch::autograd::grad({loss}, leaves, {}, {}, twice, true))
    all.push_back(slope.defined() ? slope.detach() : slope);
  return all;
}

void expect_alike(const std::vector<Tensor>& found, const std::vector<Tensor>& expected,
                  double most, const std::string& what) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    ASSERT_EQ(found[i].defined(), expected[i].defined()) << what << " " << i;
    if (!found[i].defined()) continue;
    const double size = std::max(expected[i].abs().max().item<double>(), 1e-3);
    const Tensor gap = (found[i].to(at::kDouble) - expected[i].to(at::kDouble)).abs();
    EXPECT_LT(gap.max().item<double>() / size, most) << what << " " << i;
  }
}

TEST(property, kernels_added_norms_are_exact) {
  for (const NormCase& norm : kCases)
    for (const int64_t width : {5, 7, 64, 301})
      for (const Seen seen : {Seen::both, Seen::normed, Seen::sum}) {
        const std::string what = norm.name + std::string(" ") + std::to_string(width);
        const auto expected = normed_with(norm, width, at::kDouble, seen, false);
        expect_alike(normed_with(norm, width, at::kDouble, seen, true), expected, 1e-13, what);
        expect_alike(normed_with(norm, width, at::kFloat, seen, true), expected, 2e-6, what);
        expect_alike(normed_with(norm, width, at::kFloat, seen, true, true), expected, 2e-6, what);
      }
}

/// bfloat16 rounds the sum before it is normed, so the peer norms the rounded sum in float64.
TEST(property, kernels_added_norms_in_bfloat16) {
  for (const NormCase& norm : kCases)
    for (const int64_t width : {7, 64, 301}) {
      const auto leaf = [&](at::IntArrayRef shape, uint64_t seed) {
        return numbers(shape, seed).to(at::kBFloat16);
      };
      const Tensor x = leaf({40, width}, 1), r = leaf({40, width}, 2), w = leaf({width}, 3),
                   b = leaf({width}, 4);
      const AddedNorm result = norm.fused(x, r, w, b);
      EXPECT_TRUE(result.sum.equal(x + r));
      const auto wide = [](const Tensor& each) { return each.to(at::kDouble); };
      expect_alike({result.y}, {norm.plain(wide(result.sum), wide(w), wide(b))}, 1e-2, norm.name);
    }
}

TEST(property, kernels_added_norms_do_not_depend_on_threads) {
  const int threads = at::get_num_threads();
  for (const NormCase& norm : kCases) {
    at::set_num_threads(1);
    const auto one = normed_with(norm, 65, at::kFloat, Seen::both, true);
    at::set_num_threads(3);
    const auto three = normed_with(norm, 65, at::kFloat, Seen::both, true);
    for (size_t i = 0; i < one.size(); ++i)
      EXPECT_TRUE(!one[i].defined() || one[i].equal(three[i])) << norm.name << " " << i;
  }
  at::set_num_threads(threads);
}

TEST(property, kernels_added_norms_differentiate_twice) {
  for (const NormCase& norm : kCases) {
    const Tensor x = random_leaf({3, 5}, 1), residual = random_leaf({3, 5}, 2),
                 weight = random_leaf({5}, 3), bias = random_leaf({5}, 4);
    const auto gradient = [&](bool fused) {
      const Tensor sum = x + residual;
      const Tensor y =
          fused ? norm.fused(x, residual, weight, bias).y : norm.plain(sum, weight, bias);
      const Tensor slope = torch::autograd::grad({y.square().sum()}, {x}, {}, true, true)[0];
      return torch::autograd::grad({slope.square().sum()}, {residual})[0];
    };
    expect_alike({gradient(true)}, {gradient(false)}, 1e-10, norm.name);
  }
}

}  // namespace
}  // namespace formwork::test

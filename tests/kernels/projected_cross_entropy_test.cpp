// The loss of tokens without their logits, beside PyTorch's operators and the plain reference.
#include "kernels/projected_cross_entropy.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <vector>

#include "core/error.h"
#include "kernels/simd_levels.h"
#include "support/compare.h"
#include "support/gradcheck.h"

namespace formwork::test {
namespace {

struct Problem {
  Tensor x, weight, bias, target;
  std::vector<Tensor> leaves() const {
    return bias.defined() ? std::vector<Tensor>{x, weight, bias} : std::vector<Tensor>{x, weight};
  }
};

/// Some targets are not counted where `masked`.
Problem problem(at::IntArrayRef rows, int64_t width, int64_t classes, bool bias, bool masked,
                at::ScalarType type = at::kDouble) {
  std::vector<int64_t> shape(rows.begin(), rows.end());
  shape.push_back(width);
  const auto leaf = [&](at::IntArrayRef sizes, uint64_t seed) {
    return numbers(sizes, seed).to(type).requires_grad_(true);
  };
  Problem p{leaf(shape, 1), leaf({classes, width}, 2), bias ? leaf({classes}, 3) : Tensor(), {}};
  const Tensor places = at::arange(p.x.numel() / width, at::kLong).view(rows);
  p.target = (places * 7 + 3).remainder(classes);
  if (masked) p.target = p.target.masked_fill(places.remainder(3) == 1, -1);
  return p;
}

/// The loss and the gradients, the loss times 0.37.
std::vector<Tensor> all_of(decltype(projected_cross_entropy) form, const Problem& p,
                           const CrossEntropyRule& rule) {
  const Tensor loss = form(p.x, p.weight, p.bias, p.target, rule);
  std::vector<Tensor> all{loss.detach()};
  for (const Tensor& gradient : torch::autograd::grad({0.37 * loss}, p.leaves()))
    all.push_back(gradient);
  return all;
}

const CrossEntropyRule kRules[] = {{}, {0.1, 0.0}, {0.0, 1e-2}, {0.2, 0.3}};

TEST(property, projected_cross_entropy_equals_the_plain_form) {
  for (const CrossEntropyRule& rule : kRules)
    for (const bool bias : {false, true})
      for (const bool masked : {false, true}) {
        const Problem p = problem({3, 5}, 4, 11, bias, masked);
        const auto expected = all_of(projected_cross_entropy_reference, p, rule);
        const auto found = all_of(projected_cross_entropy, p, rule);
        ASSERT_EQ(found.size(), expected.size());
        for (size_t i = 0; i < expected.size(); ++i)
          expect_near("loss and gradients", found[i], expected[i], 1e-12);
      }
}

TEST(property, projected_cross_entropy_equals_pytorch) {
  const Problem p = problem({2, 9}, 6, 13, true, true);
  const Tensor logits = at::linear(p.x, p.weight, p.bias).flatten(0, 1);
  for (const double smoothing : {0.0, 0.1}) {
    const Tensor expected =
        at::cross_entropy_loss(logits, p.target.flatten(), {}, at::Reduction::Sum, -1, smoothing);
    expect_near("sum", projected_cross_entropy(p.x, p.weight, p.bias, p.target, {smoothing, 0.0}),
                expected, 1e-12);
  }
  const Tensor counted = p.target.flatten().ge(0).to(at::kDouble);
  const Tensor z = (logits.logsumexp(1).square() * counted).sum();
  const Tensor plain = projected_cross_entropy(p.x, p.weight, p.bias, p.target);
  const Tensor with_z = projected_cross_entropy(p.x, p.weight, p.bias, p.target, {0.0, 0.5});
  expect_near("z-loss", with_z - plain, 0.5 * z, 1e-12);
}

TEST(property, projected_cross_entropy_gradients) {
  for (const CrossEntropyRule& rule : kRules) {
    const Problem p = problem({4, 3}, 3, 7, true, true);
    expect_gradients("projected_cross_entropy",
                     [&] { return projected_cross_entropy(p.x, p.weight, p.bias, p.target, rule); },
                     {{"x", p.x}, {"weight", p.weight}, {"bias", p.bias}});
  }
}

/// Several chunks of rows, the last one shorter, in float32 beside float64.
TEST(property, projected_cross_entropy_in_chunks) {
  const int64_t classes = int64_t{1} << 15;
  const Problem p = problem({1100}, 8, classes, true, true, at::kFloat);
  Problem wide = problem({1100}, 8, classes, true, true);
  {
    const c10::NoGradGuard no_grad;
    wide.x.copy_(p.x);
    wide.weight.copy_(p.weight);
    wide.bias.copy_(p.bias);
  }
  const CrossEntropyRule rule{0.1, 1e-3};
  const auto expected = all_of(projected_cross_entropy_reference, wide, rule);
  const auto found = all_of(projected_cross_entropy, p, rule);
  for (size_t i = 0; i < expected.size(); ++i) {
    const double size = expected[i].abs().max().item<double>();
    expect_near(join_text("float32 ", i).c_str(), found[i].to(at::kDouble) / size,
                expected[i] / size, 2e-6);
  }
}

/// One row at a time by every instruction set: against float64 within 2e-6 of the largest number.
TEST(property, projected_cross_entropy_rows_of_every_level) {
  for (const int64_t classes : {1, 7, 8, 9, 33, 5000})
    for (const double width : {1.0, 60.0})
      for (const auto& [smoothing, z_loss] : {std::pair(0.0, 0.0), std::pair(0.1, 0.01)}) {
        const Tensor logits = (numbers({classes}, 3) * width).to(at::kFloat);
        const Tensor wide = logits.to(at::kDouble).requires_grad_(true);
        const int64_t target = classes / 2;
        const Tensor log_sum = wide.logsumexp(0);
        const Tensor loss = log_sum - (1.0 - smoothing) * wide[target] - smoothing * wide.mean() +
                            z_loss * log_sum.square();
        const Tensor slope = torch::autograd::grad({loss}, {wide})[0];
        const double size = std::max(1.0, wide.abs().max().item<double>());
        for (const cpu::SimdLevel& level : cpu::simd_levels())
          for (const bool gradient : {false, true}) {
            const Tensor row = logits.clone();
            const float found = level.cross_entropy->row(row.data_ptr<float>(), classes, target,
                                                         static_cast<float>(smoothing),
                                                         static_cast<float>(z_loss), gradient);
            EXPECT_NEAR(found, loss.item<double>(), 2e-6 * size * size) << level.attention->name;
            if (gradient)
              expect_near("slope", row.to(at::kDouble) / size, slope.detach() / size, 2e-6);
            else
              expect_same_bits("untouched", row, logits);
          }
      }
}

TEST(property, projected_cross_entropy_rows_show_what_is_no_number) {
  for (const cpu::SimdLevel& level : cpu::simd_levels())
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
      for (const int64_t place : {0, 9, 18}) {
        std::vector<float> row(19, 0.5f);
        row[static_cast<size_t>(place)] = bad;
        EXPECT_TRUE(std::isnan(level.cross_entropy->row(row.data(), 19, 3, 0.0f, 0.0f, true)));
      }
}

TEST(property, projected_cross_entropy_is_the_same_for_any_number_of_threads) {
  // Ours, as each number of threads has measured choices of its own.
  ::setenv("FORMWORK_MATMUL", "formwork", 1);
  const Problem p = problem({700}, 24, 30000, true, true, at::kFloat);
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const auto one = all_of(projected_cross_entropy, p, {0.1, 1e-3});
  at::set_num_threads(2);
  const auto two = all_of(projected_cross_entropy, p, {0.1, 1e-3});
  at::set_num_threads(before);
  for (size_t i = 0; i < one.size(); ++i) expect_same_bits("threads", one[i], two[i]);
}

TEST(property, projected_cross_entropy_of_tied_weights_retained_graphs_and_frozen_parts) {
  // The weight is what x was looked up in.
  const Tensor table = random_leaf({9, 5}, 4), target = at::tensor({3, -1, 8}, at::kLong);
  const Tensor x = table.index_select(0, at::tensor({1, 2, 2}, at::kLong));
  const Tensor loss = projected_cross_entropy(x, table, {}, target);
  const Tensor plain = projected_cross_entropy_reference(x, table, {}, target);
  const Tensor expected = torch::autograd::grad({plain}, {table}, {}, true)[0];
  const Tensor once = torch::autograd::grad({loss}, {table}, {}, true)[0];
  expect_near("tied", once, expected, 1e-13);
  expect_near("again", torch::autograd::grad({2.0 * loss}, {table}, {}, true)[0], 2.0 * expected,
              1e-13);
  expect_near("differentiable", torch::autograd::grad({loss}, {table}, {}, true, true)[0], expected,
              1e-13);
  const Problem p = problem({4}, 3, 6, false, false);
  const Tensor frozen = p.weight.detach();
  const auto only_x =
      torch::autograd::grad({projected_cross_entropy(p.x, frozen, {}, p.target)}, {p.x});
  const auto both = torch::autograd::grad(
      {projected_cross_entropy_reference(p.x, p.weight, {}, p.target)}, {p.x});
  expect_near("frozen weight", only_x[0], both[0], 1e-13);
}

TEST(property, projected_cross_entropy_of_nothing_and_errors) {
  Problem p = problem({4}, 3, 6, true, false);
  p.target.fill_(-1);
  const auto all = all_of(projected_cross_entropy, p, {});
  for (const Tensor& part : all) EXPECT_EQ(part.abs().sum().item<double>(), 0.0);
  p.target[2] = 6;
  expect_refused([&] { projected_cross_entropy(p.x, p.weight, p.bias, p.target); }, "below 6");
  expect_refused([&] { projected_cross_entropy(p.x, p.weight, p.bias, p.target.to(at::kInt)); },
                 "int64");
  expect_refused([&] { projected_cross_entropy(p.x, p.weight.t(), p.bias, p.target); }, "[V,D]");
}

TEST(property, projected_cross_entropy_in_bfloat16) {
  const Problem p = problem({64}, 16, 50, true, true, at::kBFloat16);
  const auto found = all_of(projected_cross_entropy, p, {});
  Problem wide = p;
  wide.x = p.x.detach().to(at::kDouble).requires_grad_(true);
  wide.weight = p.weight.detach().to(at::kDouble).requires_grad_(true);
  wide.bias = p.bias.detach().to(at::kDouble).requires_grad_(true);
  const auto expected = all_of(projected_cross_entropy_reference, wide, {});
  EXPECT_EQ(found[0].scalar_type(), at::kFloat);
  EXPECT_EQ(found[2].scalar_type(), at::kBFloat16);
  for (size_t i = 0; i < expected.size(); ++i) {
    const double size = expected[i].abs().max().item<double>();
    expect_near("bfloat16", found[i].to(at::kDouble) / size, expected[i] / size, 2e-2);
  }
}

}  // namespace
}  // namespace formwork::test

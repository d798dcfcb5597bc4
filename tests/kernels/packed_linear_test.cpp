// Linear maps with weights in 8 and 16 bits, beside the dequantised weights in float64.
#include "kernels/packed_linear.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/error.h"
#include "kernels/linear_map.h"
#include "kernels/simd_levels.h"
#include "support/gradcheck.h"

namespace formwork::test {
namespace {

using at::Tensor;

constexpr PackedForm kForms[] = {PackedForm::int8, PackedForm::bfloat16};

Tensor floats(at::IntArrayRef shape, uint64_t seed) {
  return numbers(shape, seed).to(at::kFloat);
}

/// max |y - x Wᵀ - b| / (sum |x||w| + |b|) with the rounded W, in float64.
double error_of_product(const Tensor& y, const Tensor& x, const PackedWeight& packed,
                        const Tensor& bias) {
  Tensor w = packed.values.to(at::kDouble);
  if (packed.scale.defined()) w = w * packed.scale.to(at::kDouble).unsqueeze(1);
  const Tensor wide = x.to(at::kDouble);
  Tensor exact = at::matmul(wide, w.t()), size = at::matmul(wide.abs(), w.abs().t());
  if (bias.defined()) {
    exact = exact + bias.to(at::kDouble);
    size = size + bias.to(at::kDouble).abs();
  }
  if (y.numel() == 0) return 0.0;
  // What has no size at all must be 0 exactly.
  return ((y.to(at::kDouble) - exact).abs() / size.clamp_min(1e-30)).max().item<double>();
}

TEST(property, kernels_packed_linear_products) {
  const c10::NoGradGuard no_grad;
  const std::vector<std::pair<int64_t, int64_t>> sizes{{1, 1},     {3, 5},     {17, 33}, {257, 129},
                                                       {64, 3072}, {100, 768}, {4, 16},  {5, 0}};
  for (const PackedForm form : kForms)
    for (const auto& [out, in] : sizes)
      for (const int64_t rows : {0, 1, 2, 3, 7, 8, 9, 40})
        for (const bool with_bias : {false, true}) {
          Tensor w = floats({out, in}, 1);
          if (out > 2) w.narrow(0, out / 2, 1).zero_();
          const Tensor x = floats({rows, in}, 2);
          const Tensor bias = with_bias ? floats({out}, 3) : Tensor();
          const PackedWeight packed = pack_weight(w, form);
          const Tensor y = packed_linear(x, packed, bias);
          ASSERT_EQ(y.sizes(), at::IntArrayRef({rows, out}));
          EXPECT_LT(error_of_product(y, x, packed, bias), 2e-6) << out << " " << in << " " << rows;
          if (rows == 0) continue;
          const Tensor plain = packed_linear_reference(x, packed, bias);
          EXPECT_LT(error_of_product(plain, x, packed, bias), 2e-6);
          if (out > 2 && !with_bias) {
            EXPECT_EQ(y.select(1, out / 2).abs().max().item<float>(), 0.0f);
          }
        }
}

TEST(property, kernels_linear_map_of_few_rows) {
  const c10::NoGradGuard no_grad;
  for (const auto& [out, in] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 1}, {3, 5}, {17, 33}, {257, 129}, {70, 3072}, {4, 16}})
    for (int64_t rows = 1; rows <= kFewRows + 1; ++rows) {
      const Tensor w = floats({out, in}, 1), bias = floats({out}, 3);
      const Tensor x = floats({in, rows}, 2).t();  // not contiguous
      EXPECT_LT(error_of_product(linear_map(x, w, bias), x, {w, {}}, bias), 2e-6);
      EXPECT_LT(error_of_product(linear_map(x, w), x, {w, {}}, {}), 2e-6);
      EXPECT_LT(error_of_product(linear_map(x, floats({in, out}, 1).t()), x,
                                 {floats({in, out}, 1).t(), {}}, {}),
                2e-6);
      const Tensor y = linear_map(x.unsqueeze(1), w, bias);
      EXPECT_EQ(y.sizes(), at::IntArrayRef({rows, 1, out}));
      if (rows > kFewRows) continue;
      // The numbers of a row depend neither on the other rows nor on the threads.
      const int threads = at::get_num_threads();
      at::set_num_threads(3);
      EXPECT_TRUE(linear_map(x.narrow(0, rows - 1, 1), w, bias).equal(y.select(0, rows - 1)));
      at::set_num_threads(threads);
    }
}

TEST(property, kernels_packed_linear_both_ways_for_any_rows) {
  const c10::NoGradGuard no_grad;
  for (const PackedForm form : kForms) {
    const PackedWeight packed = pack_weight(floats({300, 515}, 1), form);
    const Tensor bias = floats({300}, 2);
    for (const int64_t rows : {1, 6, 11}) {
      const Tensor x = floats({rows, 515}, 3), few = at::empty({rows, 300}), many = few.clone();
      cpu::packed_linear_few(x, packed, bias, few);
      cpu::packed_linear_many(x, packed, bias, many);
      EXPECT_LT(error_of_product(few, x, packed, bias), 2e-6);
      EXPECT_LT(error_of_product(many, x, packed, bias), 2e-6);
    }
  }
}

TEST(property, kernels_packed_linear_rounds_weights) {
  const Tensor w = floats({33, 129}, 1) * at::logspace(-6, 4, 33).to(at::kFloat).unsqueeze(1);
  const PackedWeight int8 = pack_weight(w, PackedForm::int8);
  EXPECT_EQ(int8.values.abs().max().item<int64_t>(), 127);
  const Tensor off =
      (int8.values.to(at::kDouble) * int8.scale.to(at::kDouble).unsqueeze(1) - w.to(at::kDouble))
          .abs();
  EXPECT_LE((off.amax(1) / int8.scale.to(at::kDouble)).max().item<double>(), 0.5 * (1 + 1e-5));
  EXPECT_EQ(int8.bytes(), 33 * 129 + 33 * 4);
  EXPECT_TRUE(at::allclose(int8.unpacked(), w + (int8.unpacked() - w), 0, 0));
  const PackedWeight half = pack_weight(w, PackedForm::bfloat16);
  EXPECT_TRUE(at::equal(half.values, w.to(at::kBFloat16)));
  EXPECT_TRUE(at::equal(half.unpacked(), w.to(at::kBFloat16).to(at::kFloat)));
  EXPECT_EQ(half.bytes(), 33 * 129 * 2);
  const PackedWeight zeros = pack_weight(at::zeros({2, 3}), PackedForm::int8);
  EXPECT_EQ(zeros.unpacked().abs().max().item<float>(), 0.0f);
  Tensor bad = at::ones({3, 4});
  bad[1][2] = INFINITY;
  const Tensor y = packed_linear(at::ones({1, 4}), pack_weight(bad, PackedForm::int8), {});
  EXPECT_TRUE(std::isfinite(y[0][0].item<float>()) && std::isnan(y[0][1].item<float>()));
}

TEST(property, kernels_packed_linear_shapes_and_strides) {
  const c10::NoGradGuard no_grad;
  for (const PackedForm form : kForms) {
    const PackedWeight packed = pack_weight(floats({40, 24}, 1), form);
    const Tensor x = floats({2, 24, 3}, 2);
    const Tensor y = packed_linear(x.transpose(1, 2), packed, {});
    EXPECT_EQ(y.sizes(), at::IntArrayRef({2, 3, 40}));
    EXPECT_TRUE(at::equal(y, packed_linear(x.transpose(1, 2).contiguous(), packed, {})));
    const PackedWeight strided{packed.values.t().contiguous().t(), packed.scale};
    EXPECT_TRUE(at::equal(y, packed_linear(x.transpose(1, 2), strided, {})));
    EXPECT_EQ(packed_linear(floats({24}, 3), packed, {}).sizes(), at::IntArrayRef({40}));
  }
}

TEST(property, kernels_packed_linear_keeps_nan_in_its_row) {
  const c10::NoGradGuard no_grad;
  for (const PackedForm form : kForms)
    for (const int64_t rows : {2, 20}) {
      Tensor x = floats({rows, 50}, 1);
      x[1][49] = NAN;
      const Tensor y = packed_linear(x, pack_weight(floats({9, 50}, 2), form), {});
      EXPECT_TRUE(y[1].isnan().all().item<bool>());
      EXPECT_TRUE(y[0].isfinite().all().item<bool>());
    }
}

TEST(property, kernels_packed_linear_same_bits_for_any_threads_and_rows) {
  const c10::NoGradGuard no_grad;
  const int threads = at::get_num_threads();
  for (const PackedForm form : kForms) {
    const PackedWeight packed = pack_weight(floats({1003, 345}, 1), form);
    const Tensor bias = floats({1003}, 2), x = floats({30, 345}, 3);
    at::set_num_threads(1);
    const Tensor whole = packed_linear(x, packed, bias);
    const Tensor four = packed_linear(x.narrow(0, 0, 4), packed, bias);
    at::set_num_threads(3);
    EXPECT_TRUE(at::equal(whole, packed_linear(x, packed, bias)));
    for (const int64_t rows : {1, 2, 3, 4, 5, 7, 8}) {
      const Tensor some = packed_linear(x.narrow(0, 0, rows), packed, bias);
      const int64_t both = std::min<int64_t>(rows, 4);
      EXPECT_TRUE(at::equal(some.narrow(0, 0, both), four.narrow(0, 0, both))) << rows;
    }
  }
  at::set_num_threads(threads);
}

TEST(property, kernels_packed_rows_of_every_level) {
  const int64_t out = 11, in = 203;
  const PackedWeight packed = pack_weight(floats({out, in}, 1), PackedForm::int8);
  const Tensor x = floats({5, in}, 2), bias = floats({out}, 3);
  for (const cpu::SimdLevel& level : cpu::simd_levels()) {
    const Tensor y = at::empty({5, out}), row = at::empty({in});
    level.packed->int8_products(packed.values.data_ptr<int8_t>(), packed.scale.data_ptr<float>(),
                                bias.data_ptr<float>(), 0, out, in,
                                {x.data_ptr<float>(), 5, in, y.data_ptr<float>(), out});
    EXPECT_LT(error_of_product(y, x, packed, bias), 2e-6) << level.attention->name;
    level.packed->int8_row(packed.values.data_ptr<int8_t>(), packed.scale[0].item<float>(),
                           row.data_ptr<float>(), in);
    EXPECT_TRUE(at::equal(row, packed.values[0].to(at::kFloat) * packed.scale[0]));
  }
}

std::string refusal_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "not refused";
}

TEST(property, kernels_packed_linear_refusals) {
  const PackedWeight int8 = pack_weight(floats({3, 4}, 1), PackedForm::int8);
  const Tensor x = floats({2, 4}, 2);
  const auto said = [&](const Tensor& input, const PackedWeight& weight, const Tensor& bias) {
    return refusal_of([&] { packed_linear(input, weight, bias); });
  };
  EXPECT_NE(said(x.to(at::kDouble), int8, {}).find("supported: x of Float"), std::string::npos);
  EXPECT_NE(said(x, {floats({3, 4}, 1), {}}, {}).find("supported"), std::string::npos);
  EXPECT_NE(said(x, {int8.values, {}}, {}).find("scale"), std::string::npos);
  EXPECT_NE(said(floats({2, 5}, 1), int8, {}).find("[2, 5]"), std::string::npos);
  EXPECT_NE(said(x, int8, floats({4}, 1)).find("bias"), std::string::npos);
  EXPECT_NE(said(x.clone().requires_grad_(true), int8, {}).find("gradients"), std::string::npos);
  EXPECT_NE(refusal_of([] {
              pack_weight(at::ones({2, 2}, at::kDouble), PackedForm::int8);
            }).find("supported"),
            std::string::npos);
}

}  // namespace
}  // namespace formwork::test

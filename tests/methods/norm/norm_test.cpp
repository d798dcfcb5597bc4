#include "methods/norm/norm.h"

#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "kernels/rms_norm.h"
#include "kernels/rows.h"
#include "support/golden.h"
#include "support/gradcheck.h"
#include "support/refusal.h"

namespace formwork {
namespace {

const std::vector<std::string> kKinds = {"none",       "layer_norm",   "rms_norm",
                                         "scale_norm", "dynamic_tanh", "batch_norm"};

std::shared_ptr<Norm> build(const std::string& kind, int64_t width, const Table& options = {}) {
  NormSite site;
  site.width = width;
  const auto norm = Choice<Norm>(kind).set(options).make(site);
  norm->to(at::kDouble);
  return norm;
}

/// Parameters away from their start, so that a forgotten one shows.
NamedLeaves shaken(Norm& norm) {
  const c10::NoGradGuard no_grad;
  NamedLeaves leaves;
  uint64_t seed = 50;
  for (const Parameter& parameter : norm.parameters()) {
    Tensor(parameter.tensor).add_(numbers(parameter.tensor.sizes(), ++seed), 0.2);
    leaves.emplace_back(parameter.name, parameter.tensor);
  }
  return leaves;
}

TEST(property, norm_baselines_gradients) {
  for (const std::string& kind : kKinds) {
    for (const int64_t width : {1, 7, 40}) {
      const auto norm = build(kind, width);
      NamedLeaves leaves = shaken(*norm);
      Tensor x = random_leaf({2, 5, width}, 3);
      leaves.emplace_back("x", x);
      expect_gradients(
          kind, [&] { return norm->forward(x); }, leaves);
    }
  }
  for (const Table& options : {Table{{"affine", false}}, Table{{"weight_offset", int64_t{1}}}}) {
    const auto norm = build("rms_norm", 9, options);
    NamedLeaves leaves = shaken(*norm);
    Tensor x = random_leaf({4, 9}, 3);
    leaves.emplace_back("x", x);
    expect_gradients(
        "rms_norm", [&] { return norm->forward(x); }, leaves);
  }
  const auto norm = build("batch_norm", 3);
  NamedLeaves leaves = shaken(*norm);
  Tensor x = random_leaf({2, 4, 3}, 4);
  leaves.emplace_back("x", x);
  const Tensor valid =
      at::arange(4).unsqueeze(0) < at::tensor({int64_t{4}, int64_t{2}}).unsqueeze(1);
  expect_gradients(
      "masked batch_norm", [&] { return norm->forward(x, valid); }, leaves);
}

TEST(property, norm_baselines_batch_norm_differentiates_twice) {
  const auto norm = build("batch_norm", 3);
  const Tensor x = numbers({2, 4, 3}, 5).requires_grad_(true);
  const Tensor weight = norm->parameters()[0].tensor, bias = norm->parameters()[1].tensor;
  const auto penalty = [&](const Tensor& y) {
    const Tensor slope = torch::autograd::grad({y.pow(3).sum()}, {x}, {}, true, true)[0];
    return torch::autograd::grad({slope.pow(2).sum()}, {x, weight})[0];
  };
  const Tensor plain = at::batch_norm(x.view({8, 3}), weight, bias, {}, {}, true, 0.1, 1e-5, false);
  const Tensor expected = penalty(plain);
  ASSERT_GT(expected.abs().max().item<double>(), 1e-3);
  EXPECT_TRUE(at::allclose(penalty(norm->forward(x)), expected, 1e-9, 1e-9));
}

TEST(property, norm_baselines_invariances) {
  const Tensor x = numbers({2, 6, 8}, 1);
  const auto same = [&](const std::string& kind, const Tensor& changed) {
    const auto norm = build(kind, 8,
                            kind == "layer_norm" || kind == "batch_norm" || kind == "rms_norm"
                                ? Table{{"eps", 1e-12}}
                                : Table{});
    const Tensor a = norm->forward(x), b = norm->forward(changed);
    return (a - b).abs().max().item<double>() < 1e-9;
  };
  for (const char* kind : {"layer_norm", "rms_norm", "scale_norm", "batch_norm"})
    EXPECT_TRUE(same(kind, x * 3.0)) << kind;
  EXPECT_TRUE(same("layer_norm", x + 2.0));
  EXPECT_TRUE(same("batch_norm", x * at::arange(1, 9) + at::arange(8)));
  for (const char* kind : {"rms_norm", "scale_norm", "dynamic_tanh"})
    EXPECT_FALSE(same(kind, x + 2.0)) << kind;
  EXPECT_FALSE(same("dynamic_tanh", x * 3.0));
  EXPECT_FALSE(same("layer_norm", x * at::arange(1, 9)));
  const Tensor centred = x - x.mean(-1, true);
  expect_close("layer norm is the root mean square norm of the centred",
               build("rms_norm", 8, {{"eps", 1e-5}})->forward(centred),
               build("layer_norm", 8, {{"eps", 1e-5}})->forward(x), 1e-12);
}

TEST(property, norm_baselines_zeros_and_views) {
  for (const std::string& kind : kKinds) {
    const auto norm = build(kind, 8);
    shaken(*norm);
    const Tensor zeros = at::zeros({2, 3, 8}, at::kDouble).requires_grad_(true);
    const Tensor y = norm->forward(zeros);
    EXPECT_TRUE(y.isfinite().all().item<bool>()) << kind;
    y.sum().backward();
    EXPECT_TRUE(zeros.grad().isfinite().all().item<bool>()) << kind;
    const Tensor odd = numbers({2, 8, 6}, 5).transpose(1, 2);
    const Tensor sliced = numbers({2, 6, 20}, 6).slice(-1, 3, 19, 2);
    for (const Tensor& view : {odd, sliced})
      expect_close(kind, norm->forward(view), norm->forward(view.contiguous()), 1e-14);
    norm->eval();  // no tokens have no statistics
    EXPECT_EQ(norm->forward(odd.narrow(1, 0, 0)).numel(), 0) << kind;
  }
}

TEST(property, norm_baselines_low_precision) {
  for (const std::string& kind : kKinds) {
    const auto norm = build(kind, 40);
    norm->to(at::kFloat);
    const Tensor x = numbers({2, 9, 40}, 7).to(at::kFloat);
    const Tensor exact = norm->forward(x);
    for (const bool low_weights : {false, true}) {
      if (low_weights) norm->to(at::kBFloat16);
      const Tensor low = norm->forward(x.to(at::kBFloat16));
      EXPECT_EQ(low.scalar_type(), at::kBFloat16) << kind;
      expect_close(kind, low.to(at::kFloat), exact, 1e-2);
    }
  }
}

TEST(property, norm_baselines_fused_addition_is_exact) {
  for (const auto type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    for (const int64_t width : {1, 5, 64, 77}) {
      Tensor x = numbers({3, 7, width}, 8).to(type).requires_grad_(true);
      Tensor residual = numbers({3, 7, width}, 9).to(type).requires_grad_(true);
      Tensor scale = numbers({width}, 10).to(type).requires_grad_(true);
      const auto gradients = [&](const Tensor& sum, const Tensor& y) {
        for (Tensor leaf : {x, residual, scale}) leaf.mutable_grad() = Tensor();
        (y.square().sum() + (sum * 0.5).sum()).backward();
        return std::vector<Tensor>{x.grad(), residual.grad(), scale.grad()};
      };
      const AddedNorm fused = add_rms_norm(x, residual, scale, 1e-6);
      const Tensor sum = x + residual;
      const Tensor y = rms_norm(sum, scale, 1e-6);
      EXPECT_TRUE(at::equal(fused.sum, sum)) << type << " " << width;
      EXPECT_TRUE(at::equal(fused.y, y)) << type << " " << width;
      const auto one = gradients(fused.sum, fused.y), two = gradients(sum, y);
      for (size_t i = 0; i < one.size(); ++i)
        expect_close("gradient", one[i].to(at::kDouble), two[i].to(at::kDouble),
                     type == at::kBFloat16 ? 1e-2 : 1e-6);
    }
  }
}

TEST(property, norm_baselines_kernel_matches_plain_operators) {
  for (const auto type : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16}) {
    for (const int64_t width : {1, 3, 16, 65, 768}) {
      const Tensor x = numbers({70, width}, 11).to(type);
      const Tensor scale = numbers({width}, 12).to(type == at::kDouble ? type : at::kFloat);
      const double allowed = type == at::kDouble ? 1e-13 : type == at::kFloat ? 1e-5 : 1e-2;
      expect_close("scaled", rms_norm(x, scale, 1e-6).to(at::kDouble),
                   rms_norm_reference(x, scale, 1e-6).to(at::kDouble), allowed);
      expect_close("plain", rms_norm(x, {}, 1e-6).to(at::kDouble),
                   rms_norm_reference(x, {}, 1e-6).to(at::kDouble), allowed);
    }
  }
}

TEST(unit, rows_of_bfloat16) {
  // Every upper half, and lower halves around the ties.
  for (const int64_t low : {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff}) {
    const Tensor bits = (at::arange(65536, at::kInt) * 65536 + low).contiguous();
    const Tensor exact = bits.view(at::kFloat);
    const int64_t n = exact.numel();
    Tensor rounded = at::empty({65536}, at::kBFloat16);
    narrow(exact.const_data_ptr<float>(), rounded.data_ptr<c10::BFloat16>(), n);
    EXPECT_TRUE(at::allclose(rounded, exact.to(at::kBFloat16), 0, 0, /*equal_nan=*/true)) << low;
    Tensor back = at::empty({65536}, at::kFloat);
    widen(rounded.const_data_ptr<c10::BFloat16>(), back.data_ptr<float>(), n);
    EXPECT_TRUE(at::allclose(back, rounded.to(at::kFloat), 0, 0, /*equal_nan=*/true)) << low;
  }
}

TEST(property, norm_baselines_gradient_is_the_same_on_any_number_of_threads) {
  const Tensor x = numbers({1000, 33}, 13).to(at::kFloat);
  Tensor scale = numbers({33}, 14).to(at::kFloat).requires_grad_(true);
  const auto gradient = [&](int threads) {
    at::set_num_threads(threads);
    scale.mutable_grad() = Tensor();
    rms_norm(x, scale, 1e-6).square().sum().backward();
    return scale.grad();
  };
  const int before = at::get_num_threads();
  const Tensor one = gradient(1), three = gradient(3);
  at::set_num_threads(before);
  EXPECT_TRUE(at::equal(one, three));
}

TEST(property, norm_baselines_batch_statistics) {
  const auto norm = build("batch_norm", 3);
  const Tensor x = numbers({2, 4, 3}, 15);
  const Tensor valid =
      at::arange(4).unsqueeze(0) < at::tensor({int64_t{1}, int64_t{0}}).unsqueeze(1);
  test::expect_error([&] { norm->forward(x, valid); }, Fault::request, {"found 1 valid token"});
  norm->eval();
  const Tensor y = norm->forward(x, valid);
  EXPECT_EQ(y.abs().sum(-1).count_nonzero().item<int64_t>(), 1);
  EXPECT_FALSE(Choice<Norm>("batch_norm").traits().per_token);
}

TEST(unit, norm_options) {
  const auto says = [](const std::string& kind, const Table& options, const std::string& key) {
    test::expect_error([&] { build(kind, 4, options); }, Fault::request, {"norm." + key});
  };
  for (const char* kind : {"layer_norm", "rms_norm", "scale_norm", "batch_norm"})
    says(kind, {{"eps", 0.0}}, "eps");
  says("batch_norm", {{"momentum", 1.5}}, "momentum");
  says("rms_norm", {{"weight_offset", int64_t{2}}}, "weight_offset");
  EXPECT_EQ(build("layer_norm", 4, {{"bias", false}})->parameter_count(), 4);
  EXPECT_EQ(build("layer_norm", 4, {{"affine", false}})->parameter_count(), 0);
  const auto gemma = build("rms_norm", 4, {{"weight_offset", int64_t{1}}});
  EXPECT_EQ(gemma->named_tensors().at("weight").abs().sum().item<double>(), 0.0);
  EXPECT_TRUE(at::equal(gemma->gain(), at::ones({4}, at::kDouble)));
}

}  // namespace
}  // namespace formwork

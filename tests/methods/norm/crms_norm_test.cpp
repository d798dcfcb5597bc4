#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <limits>

#include "kernels/rms_norm.h"
#include "kernels/scaled_tanh.h"
#include "support/gradcheck.h"
#include "support/refusal.h"
#include "support/stepwise.h"

namespace formwork::test {
namespace {

TEST(golden, crms_norm) {
  int seen = 0;
  for (const GoldenCase& golden : golden_cases("pre_rmsnorm")) {
    for (const auto& [name, kind] :
         std::map<std::string, std::string>{{"ln", "layer_norm"},
                                            {"rms", "rms_norm"},
                                            {"rms_of_centred", "rms_norm"},
                                            {"crms", "crms_norm"}}) {
      if (!golden.has("in." + name + ".x")) continue;  // the conversions have their own test
      ++seen;
      const Tensor x = golden.at("in." + name + ".x").clone().requires_grad_(true);
      const auto norm =
          make_norm(kind, x.size(-1), {{"eps", golden.option("eps", 1e-5)}, {"affine", false}});
      const Tensor y = norm->forward(x);
      expect_close(golden.file + " " + name, y, golden.at("out." + name + ".y"), 1e-12);
      (y * golden.at("in." + name + ".cotangent")).sum().backward();
      expect_close(golden.file + " grad " + name, x.grad(), golden.at("grad.in." + name + ".x"));
    }
  }
  if (!testing::Test::IsSkipped()) {
    EXPECT_GT(seen, 0);
  }
}

TEST(property, pre_rmsnorm_leaves_one_channel_out) {
  for (const int64_t width : {2, 5, 40, 769}) {
    const Tensor x = numbers({3, 4, width}, 1);
    const Tensor centred = x - x.mean(-1, true);
    const Table plain{{"affine", false}, {"eps", 1e-5}};
    const Tensor whole = make_norm("layer_norm", width, plain)->forward(x);
    expect_close("rms", make_norm("rms_norm", width, plain)->forward(centred), whole, 1e-12);
    const Tensor short_one = centred.narrow(-1, 0, width - 1);
    expect_close("crms", make_norm("crms_norm", width - 1, plain)->forward(short_one),
                 whole.narrow(-1, 0, width - 1), 1e-12);
  }
}

TEST(property, pre_rmsnorm_crms_gradients) {
  for (const int64_t width : {1, 7, 40}) {
    for (const bool bias : {false, true}) {
      const auto norm = make_norm("crms_norm", width, {{"bias", bias}});
      NamedLeaves leaves{{"x", random_leaf({2, 5, width}, 3)}};
      const c10::NoGradGuard no_grad;
      for (const Parameter& parameter : norm->parameters()) {
        Tensor(parameter.tensor).add_(numbers(parameter.tensor.sizes(), 4), 0.2);
        leaves.emplace_back(parameter.name, parameter.tensor);
      }
      const c10::AutoGradMode grad(true);
      expect_gradients(
          "crms_norm", [&] { return norm->forward(leaves[0].second); }, leaves);
    }
  }
}

TEST(property, pre_rmsnorm_crms_second_derivative) {
  const Tensor x = random_leaf({3, 6}, 5), scale = random_leaf({6}, 6), g = random_leaf({3, 6}, 7);
  const auto derivative = [&](const std::function<Tensor()>& norm) {
    const auto once = torch::autograd::grad({(norm() * g).sum()}, {x, scale}, {}, true, true);
    const auto twice =
        torch::autograd::grad({once[0].square().sum() + once[1].square().sum()}, {x, scale, g});
    return at::cat({twice[0].flatten(), twice[1].flatten(), twice[2].flatten()});
  };
  expect_close("twice", derivative([&] { return crms_norm(x, scale, 1e-5); }),
               derivative([&] { return crms_norm_reference(x, scale, 1e-5); }), 1e-10);
}

TEST(property, pre_rmsnorm_crms_kernel_matches_plain_operators) {
  for (const auto type : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16}) {
    for (const int64_t width : {1, 3, 16, 65, 767}) {
      const Tensor x = numbers({70, width}, 11).to(type);
      const Tensor scale = numbers({width}, 12).to(type == at::kDouble ? type : at::kFloat);
      const double allowed = type == at::kDouble ? 1e-13 : type == at::kFloat ? 1e-5 : 1e-2;
      for (const Tensor& by : {Tensor(), scale})
        expect_close("crms", crms_norm(x, by, 1e-6).to(at::kDouble),
                     crms_norm_reference(x, by, 1e-6).to(at::kDouble), allowed);
    }
  }
}

TEST(property, norm_baselines_tanh_is_exact_enough) {
  // Every size from the smallest to where it is 1, both signs, and what is no number.
  const Tensor size = at::logspace(-30, 2.5, 200003, 10.0, at::kDouble);
  const Tensor x = at::cat({size, -size, at::zeros({1}, at::kDouble)}).to(at::kFloat);
  const Tensor ones = at::ones({1}), zeros = at::zeros({1});
  const auto tanh_of = [&](const Tensor& values) {
    return cpu::scaled_tanh_forward(values.reshape({1, -1}), 1.0,
                                    ones.expand({values.numel()}).contiguous(),
                                    zeros.expand({values.numel()}).contiguous())
        .squashed.flatten();
  };
  const Tensor got = tanh_of(x).to(at::kDouble), wanted = at::tanh(x.to(at::kDouble));
  const Tensor off = (got - wanted).abs() / wanted.abs().clamp_min(1e-300);
  EXPECT_LT(off.max().item<double>(), 6e-7);
  const float infinite = std::numeric_limits<float>::infinity();
  const Tensor odd = tanh_of(at::tensor({infinite, -infinite, std::nanf(""), 88.0f, -1e30f}));
  EXPECT_EQ(odd[0].item<float>(), 1.0f);
  EXPECT_EQ(odd[1].item<float>(), -1.0f);
  EXPECT_TRUE(std::isnan(odd[2].item<float>()));
  EXPECT_EQ(odd[3].item<float>(), 1.0f);
  EXPECT_EQ(odd[4].item<float>(), -1.0f);
}

TEST(property, norm_baselines_least_length) {
  for (const int64_t width : {1, 6, 40}) {
    const Tensor x = random_leaf({6, width}, 21), scale = random_leaf({width}, 22);
    {
      const c10::NoGradGuard no_grad;
      x.narrow(0, 0, 2).mul_(1e-4);  // shorter than the least length
      x.narrow(0, 5, 1).zero_();
    }
    const Tensor g = numbers({6, width}, 23);
    const auto gradients = [&](const Tensor& y) {
      const auto both = torch::autograd::grad({(y * g).sum()}, {x, scale});
      return at::cat({both[0].flatten(), both[1]});
    };
    const auto compare = [&](const char* name, auto fused, auto reference) {
      const Tensor ours = fused(x, scale, 0.01), theirs = reference(x, scale, 0.01);
      expect_close(name, ours, theirs, 1e-12);
      expect_close(name, gradients(ours), gradients(theirs), 1e-12);
    };
    compare("at least", rms_norm_at_least, rms_norm_at_least_reference);
    compare("outside", rms_norm_outside, rms_norm_outside_reference);
    expect_gradients("outside", [&] { return rms_norm_outside(x.narrow(0, 2, 3), scale, 0.01); },
                     {{"x", x}, {"scale", scale}});
  }
}

TEST(property, pre_rmsnorm_crms_zeros_and_views) {
  const auto norm = make_norm("crms_norm", 8);
  const Tensor zeros = at::zeros({2, 3, 8}, at::kDouble).requires_grad_(true);
  const Tensor y = norm->forward(zeros);
  EXPECT_EQ(y.abs().max().item<double>(), 0.0);
  y.sum().backward();
  EXPECT_TRUE(at::isfinite(zeros.grad()).all().item<bool>());
  const Tensor odd = numbers({2, 8, 6}, 5).transpose(1, 2);
  expect_close("view", norm->forward(odd), norm->forward(odd.contiguous()), 1e-14);
  EXPECT_EQ(make_norm("crms_norm", 8, {{"affine", false}})->parameter_count(), 0);
  EXPECT_EQ(make_norm("crms_norm", 8, {{"bias", true}})->parameter_count(), 16);
  expect_error([] { make_norm("crms_norm", 8, {{"eps", 0.0}}); }, Fault::request, {"norm.eps"});
}

}  // namespace
}  // namespace formwork::test

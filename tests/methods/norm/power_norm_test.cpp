#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "kernels/channels.h"
#include "kernels/grouped.h"
#include "support/gradcheck.h"
#include "support/refusal.h"
#include "support/stepwise.h"

namespace formwork::test {
namespace {

TEST(golden, power_norm) {
  for (const GoldenCase& golden : golden_cases("power_norm")) {
    const bool paper = golden.option<std::string>("variant", "official") == "paper";
    const double alpha = golden.option("alpha", 0.9);
    const double forward = golden.option("alpha_fwd", alpha);
    const double backward = golden.option("alpha_bkw", alpha);
    const auto norm =
        make_norm("power_norm", golden.at("param.weight").size(0),
                  {{"variant", paper ? "paper" : "released"},
                   {"group_num", std::max<int64_t>(1, golden.option<int64_t>("group_num", 1))},
                   {"warmup_iters", golden.option<int64_t>("warmup_iters", 0)},
                   {"alpha_fwd", forward},
                   {"alpha_bkw", backward},
                   {"eps", golden.option("eps", 1e-5)}});
    // The paper's nu is (1 - alpha) times the program's running correlation.
    check_steps(
        {golden, *norm, {{"psi2", {"running_phi", 1.0}}, {"nu", {"ema_gz", 1.0 - backward}}}, {}});
  }
}

TEST(property, power_norm_first_gradient_is_that_of_constant_statistics) {
  // While nothing has been accumulated, the scale counts as a constant.
  const auto norm = make_norm("power_norm", 6, {{"variant", "paper"}});
  const Tensor x = random_leaf({3, 5, 6}, 1), g = numbers({3, 5, 6}, 2);
  (norm->forward(x) * g).sum().backward();
  expect_close("gradient", x.grad(), g / std::sqrt(1.0 + 1e-5));
}

TEST(property, power_norm_correction_settles) {
  // With s = phi at every step the mean of u z goes to 0: the gradient loses its part along z.
  const auto norm = make_norm("power_norm", 4, {{"variant", "paper"}, {"eps", 1e-12}});
  Tensor x = numbers({40, 4}, 3);
  x = x / x.square().mean(0).sqrt();
  const Tensor g = numbers({40, 4}, 4) + x;
  Tensor dx;
  for (int64_t i = 0; i < 300; ++i) {
    const Tensor leaf = x.clone().requires_grad_(true);
    (norm->forward(leaf) * g).sum().backward();
    dx = leaf.grad();
  }
  EXPECT_LT((dx * x).mean(0).abs().max().item<double>(), 1e-9);
  EXPECT_GT((g * x).mean(0).abs().max().item<double>(), 0.1);
}

TEST(property, power_norm_groups) {
  // After step 0 every group of every token has root mean square 1, and only then channels count.
  const auto norm = make_norm(
      "power_norm", 6, {{"group_num", int64_t{3}}, {"eps", 1e-12}, {"warmup_iters", int64_t{0}}});
  norm->eval();  // running statistics are 1
  const Tensor y = norm->forward(numbers({4, 7, 6}, 5) * 3).unflatten(-1, {3, 2});
  expect_close("groups", y.square().mean(-1), at::ones({4, 7, 3}, at::kDouble), 1e-9);
  EXPECT_FALSE(norm->folded().has_value());
}

TEST(property, power_norm_padding_and_evaluation) {
  for (const char* variant : {"released", "paper"}) {
    const Tensor valid =
        at::arange(5).unsqueeze(0) < at::tensor({int64_t{3}, int64_t{5}}).unsqueeze(1);
    const Tensor x = numbers({2, 5, 4}, 6);
    const Tensor other = at::where(valid.unsqueeze(-1), x, x * 50 + 3);
    const auto one = make_norm("power_norm", 4, {{"variant", variant}});
    const auto two = make_norm("power_norm", 4, {{"variant", variant}});
    for (int64_t i = 0; i < 3; ++i)
      expect_close(variant, one->forward(x, valid).index({valid}),
                   two->forward(other, valid).index({valid}));
    one->eval();
    std::vector<Tensor> before;
    for (const auto& [name, value] : one->buffers()) before.push_back(value.clone());
    const Tensor y = one->forward(x);
    size_t i = 0;
    for (const auto& [name, value] : one->buffers()) EXPECT_TRUE(at::equal(value, before[i++]));
    if (const auto folded = one->folded())
      expect_close("folded", x * folded->scale + folded->shift, y);
  }
}

TEST(property, power_norm_warm_up_by_the_budget) {
  const auto norm = make_norm("power_norm", 3, {{"warmup_fraction", 0.5}});
  const auto counted = make_norm("power_norm", 3, {{"warmup_iters", int64_t{3}}});
  // Of six steps the iterations 1 to 3 have used less than half of the budget.
  for (int64_t step = 0; step < 6; ++step) {
    norm->before_step({step, static_cast<double>(step) / 6.0});
    const Tensor x = numbers({8, 3}, 20 + step);
    const Tensor a = norm->forward(x), b = counted->forward(x);
    if (step != 3) continue;
    EXPECT_GT((a - b).abs().max().item<double>(), 0.0);  // t = 3 is no cumulative one when counted
  }
  norm->before_step({6, 0.9});
  const Tensor x = numbers({8, 3}, 30);
  const Tensor phi = norm->named_tensors().at("running_phi").clone();
  const Tensor scaled = x / (x.square().mean(-1, true) + 1e-5).sqrt();
  expect_close("running", norm->forward(x), scaled / (phi + 1e-5).sqrt());
}

TEST(unit, power_norm_options) {
  const auto says = [](const Table& options, std::initializer_list<std::string> words) {
    expect_error([&] { make_norm("power_norm", 4, options); }, Fault::request, words);
  };
  says({{"group_num", int64_t{3}}}, {"norm.power_norm.group_num", "divisor"});
  says({{"alpha_fwd", 1.0}}, {"alpha_fwd", "below 1"});
  says({{"variant", "own"}}, {"variant", "released", "paper"});
  const auto norm = make_norm("power_norm", 4);
  expect_error(
      [&] {
        norm->forward(numbers({1, 2, 4}, 1), at::zeros({1, 2}, at::kBool));
      },
      Fault::request, {"norm.power_norm", "no valid token"});
  const Tensor x = random_leaf({2, 4}, 1);
  const Tensor y = norm->forward(x);
  expect_error([&] { y.sum().backward({}, std::nullopt, /*create_graph=*/true); }, Fault::request,
               {"cannot be differentiated twice"});
}

TEST(property, channels_match_plain_operators) {
  for (const auto type : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16}) {
    for (const int64_t width : {1, 3, 16, 65, 768}) {
      const double allowed = type == at::kDouble ? 1e-13 : type == at::kFloat ? 1e-5 : 1e-2;
      const Tensor x = numbers({3, 71, width}, 1).to(type), g = numbers({3, 71, width}, 2).to(type);
      const Tensor a = numbers({width}, 3), b = numbers({width}, 4), c = numbers({width}, 5);
      const auto same = [&](const char* what, const Tensor& one, const Tensor& two) {
        expect_close(what, one.to(at::kDouble), two.to(at::kDouble), allowed);
      };
      for (const Tensor& valid : {Tensor(), numbers({3, 71}, 6) > 0}) {
        for (const Tensor& centre : {Tensor(), a}) {
          const ChannelSums one = channel_moments(x, centre, valid);
          const ChannelSums two = channel_sums_reference({}, x, centre, valid);
          same("squares", one.product, two.product);
          same("sums", one.first, two.first);
          const ChannelSums three = channel_products(g, x, centre, valid);
          const ChannelSums four = channel_sums_reference(g, x, centre, valid);
          same("products", three.product, four.product);
          same("gradients", three.first, four.first);
        }
      }
      same("combine", channel_combine(g, a, x, b, c), channel_combine_reference(g, a, x, b, c));
      same("scale", channel_scale(g, a, {}), channel_combine_reference(g, a, {}, {}, {}));
      same("view", channel_scale(x.transpose(0, 1), a, c),
           channel_combine_reference(x.transpose(0, 1), a, {}, {}, c));
    }
  }
}

TEST(property, power_norm_kernel_matches_plain_operators) {
  for (const auto type : {at::kDouble, at::kFloat, at::kBFloat16}) {
    for (const int64_t groups : {1, 3}) {
      for (const int64_t width : {3, 18, 771}) {
        const double allowed = type == at::kDouble ? 1e-12 : type == at::kFloat ? 1e-5 : 1e-2;
        const auto same = [&](const char* what, const Tensor& one, const Tensor& two) {
          expect_close(what, one.to(at::kDouble), two.to(at::kDouble), allowed);
        };
        const auto wide = type == at::kDouble ? at::kDouble : at::kFloat;
        const Tensor x = numbers({2, 39, width}, 1).to(type).requires_grad_(true);
        const Tensor g = numbers({2, 39, width}, 2).to(type);
        const Tensor a = numbers({width}, 3).to(wide), b = numbers({width}, 4).to(wide);
        const Tensor parts = x.to(wide).unflatten(-1, {groups, width / groups});
        const Tensor z = (parts / (parts.square().mean(-1, true) + 1e-3).sqrt()).flatten(-2);
        const cpu::Groups how{groups, 1e-3};
        const Tensor plain = x.detach();
        const cpu::GroupedSums all = cpu::grouped_sums({}, plain, {}, {}, how);
        same("squares", all.product, z.square().sum({0, 1}));
        const Tensor valid = numbers({2, 39}, 6) > 0;
        const cpu::GroupedSums some = cpu::grouped_sums(g, plain, all.roots, valid, how);
        same("products", some.product, (g.to(wide) * z).index({valid}).sum(0));
        same("gradients", some.first, g.to(wide).index({valid}).sum(0));
        same("scale", cpu::grouped_scale(plain, all.roots, a, b), z * a + b);
        (z * (g.to(wide) * a + z.detach() * b)).sum().backward();
        same("gradient", cpu::grouped_gradient(g, plain, all.roots, a, b), x.grad());
      }
    }
  }
}

TEST(property, channels_are_the_same_on_any_number_of_threads) {
  const Tensor x = numbers({1000, 33}, 13).to(at::kFloat);
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const Tensor one = channel_moments(x, {}, {}).product;
  at::set_num_threads(3);
  const Tensor three = channel_moments(x, {}, {}).product;
  at::set_num_threads(before);
  EXPECT_TRUE(at::equal(one, three));
}

}  // namespace
}  // namespace formwork::test

#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <array>

#include "support/gradcheck.h"
#include "support/refusal.h"
#include "support/stepwise.h"

namespace formwork::test {
namespace {

Table window_options(const GoldenCase& golden) {
  const nlohmann::json& window = golden.config.at("window_size");
  const auto forward = (window.is_array() ? window[0] : window).get<int64_t>();
  const auto backward = (window.is_array() ? window[1] : window).get<int64_t>();
  return {{"window_size", forward}, {"backward_window_size", backward}};
}

TEST(golden, unified_norm) {
  for (const GoldenCase& golden : golden_cases("unified_norm")) {
    Table options = window_options(golden);
    options.emplace_back("warmup_iters", golden.option<int64_t>("warmup_iters", 4000));
    options.emplace_back("rho_start", golden.option<int64_t>("rho_start", 1000));
    options.emplace_back("outlier_filtration", golden.option("outlier_filtration", false));
    options.emplace_back("momentum", golden.option("momentum", 0.9));
    options.emplace_back("eps", golden.option("eps", 1e-5));
    const auto norm = make_norm("unified_norm", golden.at("param.weight").size(0), options);
    check_steps({golden, *norm, {}, {}});
  }
}

TEST(property, unified_norm_window_of_one_is_the_true_gradient) {
  const auto norm = make_norm("unified_norm", 5, {{"window_size", int64_t{1}}});
  const auto parts = norm->named_tensors();
  NamedLeaves leaves{
      {"x", random_leaf({2, 6, 5}, 1)}, {"weight", parts.at("weight")}, {"bias", parts.at("bias")}};
  {
    const c10::NoGradGuard no_grad;
    Tensor(parts.at("weight")).add_(numbers({5}, 2), 0.3);
  }
  expect_gradients(
      "window 1", [&] { return norm->forward(leaves[0].second); }, leaves);
  const Tensor& x = leaves[0].second;
  expect_close("output", norm->forward(x),
               x / (x.square().mean({0, 1}) + 1e-5).sqrt() * parts.at("weight") + parts.at("bias"));
}

TEST(property, unified_norm_smooths_over_the_window) {
  const auto norm =
      make_norm("unified_norm", 3,
                {{"warmup_iters", int64_t{0}}, {"window_size", int64_t{3}}, {"eps", 1e-12}});
  std::vector<Tensor> squares;
  Tensor y, x;
  for (int64_t i = 0; i < 5; ++i) {
    x = numbers({7, 3}, 10 + i) * (1.0 + static_cast<double>(i));
    squares.push_back(x.square().mean(0));
    y = norm->forward(x);
  }
  const Tensor geometric = (squares[2] * squares[3] * squares[4]).pow(1.0 / 3);
  expect_close("geometric mean", y, x / geometric.sqrt(), 1e-9);
  // Another scale for a whole window: the same outputs.
  const Tensor before = y;
  for (int64_t i = 2; i < 5; ++i) y = norm->forward(numbers({7, 3}, 10 + i) * (7.0 + 7.0 * i));
  expect_close("scale", y, before, 1e-9);
}

TEST(property, unified_norm_leaves_outliers_out) {
  // Eight batches in the warm-up, and then one that is thirty times as large.
  const auto run = [](bool filter) {
    const auto norm = make_norm("unified_norm", 4,
                                {{"warmup_iters", int64_t{9}}, {"outlier_filtration", filter}});
    for (int64_t i = 0; i < 8; ++i) norm->forward(numbers({64, 4}, 20 + i));
    const Tensor x = numbers({64, 4}, 30) * 30;
    const Tensor y = norm->forward(x);
    const auto buffers = norm->named_tensors();
    EXPECT_EQ(buffers.at("skip_counter").item<int64_t>(), filter ? 1 : 0);
    // An outlier is scaled by its own statistics, others by the window's.
    const bool own = at::allclose(y, x / (x.square().mean(0) + 1e-5).sqrt());
    EXPECT_EQ(own, filter);
    return buffers.at("buffer_x2").max().item<double>();
  };
  EXPECT_GT(run(false), 100);
  EXPECT_LT(run(true), 10);
}

TEST(property, unified_norm_padding_evaluation_and_zeros) {
  const Tensor valid =
      at::arange(5).unsqueeze(0) < at::tensor({int64_t{3}, int64_t{5}}).unsqueeze(1);
  const Tensor x = numbers({2, 5, 4}, 6);
  const Tensor other = at::where(valid.unsqueeze(-1), x, x * 50 + 3);
  const auto one = make_norm("unified_norm", 4), two = make_norm("unified_norm", 4);
  for (int64_t i = 0; i < 6; ++i)
    expect_close("valid tokens", one->forward(x, valid).index({valid}),
                 two->forward(other, valid).index({valid}));
  one->eval();
  std::vector<Tensor> before;
  for (const auto& [name, value] : one->buffers()) before.push_back(value.clone());
  const Tensor y = one->forward(x);
  size_t i = 0;
  for (const auto& [name, value] : one->buffers()) EXPECT_TRUE(at::equal(value, before[i++]));
  const auto [weight, bias] = fold_into_next(*one->folded(), numbers({3, 4}, 7), {});
  expect_close("folded", at::linear(x, weight, bias), at::linear(y, numbers({3, 4}, 7)));

  const auto zero = make_norm("unified_norm", 2, {{"warmup_iters", int64_t{0}}});
  for (int64_t step = 0; step < 7; ++step) {
    Tensor part = numbers({6, 2}, 8);
    part.select(1, 0).zero_();
    part.requires_grad_(true);
    const Tensor z = zero->forward(part);
    z.square().sum().backward();
    EXPECT_EQ(z.select(1, 0).abs().max().item<double>(), 0.0);
    EXPECT_TRUE(at::isfinite(part.grad()).all().item<bool>());
  }
}

TEST(property, unified_norm_resumes_in_the_middle_of_a_window) {
  const Table options{{"warmup_iters", int64_t{2}}, {"rho_start", int64_t{3}}};
  const auto run = [](Norm& norm, int64_t step) {
    const Tensor x = random_leaf({6, 4}, 40 + step);
    const Tensor y = norm.forward(x);
    (y * numbers({6, 4}, 60 + step)).sum().backward();
    return at::cat({y.detach(), x.grad()});
  };
  const auto whole = make_norm("unified_norm", 4, options);
  for (int64_t step = 0; step < 6; ++step) run(*whole, step);
  const auto resumed = make_norm("unified_norm", 4, options);
  {
    const c10::NoGradGuard no_grad;
    const auto saved = whole->named_tensors();
    for (const auto& [name, tensor] : resumed->named_tensors())
      Tensor(tensor).copy_(saved.at(name));
  }
  for (int64_t step = 6; step < 12; ++step)
    EXPECT_TRUE(at::equal(run(*whole, step), run(*resumed, step))) << step;
}

TEST(property, batch_statistics_are_those_of_all_processes) {
  for (const char* kind : {"unified_norm", "power_norm", "prepbn", "batch_norm"}) {
    Table options;
    if (std::string(kind) == "prepbn")
      options = {{"total_step", int64_t{4}}};
    else if (std::string(kind) != "batch_norm")
      options = {{"warmup_iters", int64_t{3}}};
    const Tensor valid = numbers({4, 6}, 1) > -0.5;
    const auto run = [&](Norm& norm, int64_t step, int64_t first, int64_t rows) {
      norm.before_step({step, 0.0});
      const Tensor x = numbers({4, 6, 3}, 100 + step).narrow(0, first, rows).clone();
      x.requires_grad_(true);
      const Tensor y = norm.forward(x, valid.narrow(0, first, rows));
      (y * numbers({4, 6, 3}, 200 + step).narrow(0, first, rows)).sum().backward();
      return std::pair(y.detach(), x.grad());
    };
    const auto whole = make_norm(kind, 3, options);
    std::vector<std::pair<Tensor, Tensor>> wanted;
    for (int64_t step = 0; step < 8; ++step) wanted.push_back(run(*whole, step, 0, 4));
    std::array<std::shared_ptr<Norm>, 2> halves{make_norm(kind, 3, options),
                                                make_norm(kind, 3, options)};
    std::array<std::vector<std::pair<Tensor, Tensor>>, 2> got;
    as_two_processes([&](int rank) {
      for (int64_t step = 0; step < 8; ++step)
        got[rank].push_back(run(*halves[rank], step, rank == 0 ? 0 : 1, rank == 0 ? 1 : 3));
    });
    for (int64_t step = 0; step < 8; ++step) {
      expect_close(kind, at::cat({got[0][step].first, got[1][step].first}), wanted[step].first);
      expect_close(kind, at::cat({got[0][step].second, got[1][step].second}), wanted[step].second);
    }
    for (const auto& [name, value] : whole->buffers()) {
      const Tensor other = halves[0]->named_tensors().at(name);
      EXPECT_TRUE(at::equal(other, halves[1]->named_tensors().at(name))) << kind << " " << name;
      expect_close(std::string(kind) + " " + name, other, value);
    }
  }
}

TEST(unit, unified_norm_options) {
  const auto says = [](const Table& options, std::initializer_list<std::string> words) {
    expect_error([&] { make_norm("unified_norm", 4, options); }, Fault::request, words);
  };
  says({{"window_size", int64_t{0}}}, {"window_size"});
  says({{"momentum", 1.0}}, {"momentum", "below 1"});
  says({{"eps", 0.0}}, {"eps"});
  const auto norm = make_norm("unified_norm", 4);
  expect_error(
      [&] {
        norm->forward(numbers({1, 2, 4}, 1), at::zeros({1, 2}, at::kBool));
      },
      Fault::request, {"norm.unified_norm", "no valid token"});
}

}  // namespace
}  // namespace formwork::test

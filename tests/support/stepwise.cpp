#include "support/stepwise.h"

#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <barrier>
#include <thread>

#include "methods/collective.h"

namespace formwork::test {
namespace {

Tensor own(const Steps& steps, const std::string& golden_name, double* factor) {
  const auto renamed = steps.renamed.find(golden_name);
  const std::string name = renamed == steps.renamed.end() ? golden_name : renamed->second.first;
  *factor = renamed == steps.renamed.end() ? 1.0 : renamed->second.second;
  const auto all = steps.norm.named_tensors();
  const auto found = all.find(name);
  if (found == all.end()) ADD_FAILURE() << steps.golden.file << ": no tensor for " << golden_name;
  return found == all.end() ? Tensor() : found->second;
}

bool elsewhere(const Steps& steps, const std::string& name) {
  return std::count(steps.elsewhere.begin(), steps.elsewhere.end(), name) > 0;
}

void load(const Steps& steps) {
  const c10::NoGradGuard no_grad;
  for (const Parameter& parameter : steps.norm.parameters())
    Tensor(parameter.tensor).copy_(steps.golden.at("param." + parameter.name));
  for (const auto& [name, value] : steps.golden.under("buffer.before.")) {
    double factor = 1.0;
    if (elsewhere(steps, name)) continue;
    own(steps, name, &factor).copy_(value.is_floating_point() ? value / factor : value);
  }
}

void check_buffers(const Steps& steps, const std::string& step) {
  for (const auto& [name, value] : steps.golden.under("buffer." + step + ".")) {
    if (elsewhere(steps, name)) continue;
    double factor = 1.0;
    const Tensor ours = own(steps, name, &factor);
    if (ours.defined())
      expect_close(steps.golden.file + " " + step + " " + name,
                   ours.is_floating_point() ? ours * factor : ours, value, 1e-12);
  }
}

void check_step(const Steps& steps, const std::string& step) {
  const GoldenCase& golden = steps.golden;
  const Tensor x = golden.at("in." + step + ".x").clone().requires_grad_(true);
  for (const Parameter& parameter : steps.norm.parameters())
    Tensor(parameter.tensor).mutable_grad() = at::zeros_like(parameter.tensor);
  const Tensor y = steps.norm.forward(x, valid_of(golden));
  expect_close(golden.file + " " + step, y, golden.at("out." + step + ".y"), 1e-12);
  (y * golden.at("in." + step + ".cotangent")).sum().backward();
  expect_close(golden.file + " " + step + " grad x", x.grad(), golden.at("grad.in." + step + ".x"),
               1e-11);
  for (const Parameter& parameter : steps.norm.parameters())
    expect_close(golden.file + " " + step + " grad " + parameter.name, parameter.tensor.grad(),
                 golden.at("grad.param." + step + "." + parameter.name), 1e-11);
  check_buffers(steps, step);
}

void check_inference(const Steps& steps) {
  const GoldenCase& golden = steps.golden;
  const c10::NoGradGuard no_grad;
  steps.norm.eval();
  if (!golden.has("out.eval.y")) return;
  const Tensor x = golden.at("in.eval.x");
  expect_close(golden.file + " eval", steps.norm.forward(x), golden.at("out.eval.y"));
  if (!golden.has("param.linear.weight")) return;
  const Tensor weight = golden.at("param.linear.weight");
  const Tensor bias = golden.has("param.linear.bias") ? golden.at("param.linear.bias") : Tensor();
  const auto [folded, shift] = fold_into_next(*steps.norm.folded(), weight, bias);
  expect_close(golden.file + " fold", folded, golden.at("param.fused.weight"));
  expect_close(golden.file + " fold bias", shift, golden.at("param.fused.bias"));
  expect_close(golden.file + " folded", at::linear(x, folded, shift),
               golden.at("out.eval.linear_y"));
}

}  // namespace

std::shared_ptr<Norm> make_norm(const std::string& kind, int64_t width, const Table& options) {
  NormSite site;
  site.width = width;
  const auto norm = Choice<Norm>(kind).set(options).make(site);
  norm->to(at::kDouble);
  return norm;
}

Tensor valid_of(const GoldenCase& golden) {
  return golden.has("in.pad_mask") ? golden.at("in.pad_mask").to(at::kBool).logical_not()
                                   : Tensor();
}

std::pair<Tensor, Tensor> fold_into_next(const Affine& norm, const Tensor& weight,
                                         const Tensor& bias) {
  const Tensor shift = at::matmul(weight, norm.shift);
  return {weight * norm.scale, bias.defined() ? bias + shift : shift};
}

void check_steps(const Steps& steps) {
  load(steps);
  int64_t k = 0;
  for (; steps.golden.has("in.step" + std::to_string(k) + ".x"); ++k) {
    if (steps.before) steps.before(k);
    check_step(steps, "step" + std::to_string(k));
  }
  EXPECT_GT(k, 0) << steps.golden.file;
  check_inference(steps);
}

void as_two_processes(const std::function<void(int)>& statements) {
  std::barrier meet(2);
  std::array<Tensor, 2> given;
  thread_local int rank = 0;
  set_process_sum([&](Tensor& tensor) {
    given[rank] = tensor.clone();
    meet.arrive_and_wait();
    tensor.copy_(given[0] + given[1]);
    meet.arrive_and_wait();
  });
  std::array<std::thread, 2> threads;
  for (int i = 0; i < 2; ++i)
    threads[i] = std::thread([&, i] {
      rank = i;
      statements(i);
    });
  for (std::thread& thread : threads) thread.join();
  set_process_sum({});
}

}  // namespace formwork::test

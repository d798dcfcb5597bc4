// Training without all logits in memory: the loss and every gradient are those of the plain form.
#include <gtest/gtest.h>

#include <cmath>

#include "support/tiny_model.h"
#include "tasks/support.h"
#include "training/evaluation.h"

namespace formwork::test {
namespace {

struct LossAndGradients {
  double loss = 0.0, count = 0.0;
  bool unprojected = false;
  std::map<std::string, Tensor> gradients;
};

LossAndGradients pass_of(Model& model, const Task& task, const Batch& batch, int64_t most_logits,
                         const CrossEntropyRule& rule = {}) {
  ModelInput input = batch.input;
  input.most_logits = most_logits;
  const ModelOutput out = model.forward(input);
  const LossSum loss = task.loss_of(out, batch, rule);
  (0.3 * loss.sum).backward();
  LossAndGradients result{loss.sum.item<double>(), loss.count, out.unprojected.has_value(), {}};
  for (const Parameter& parameter : model.parameters()) {
    result.gradients[parameter.name] = parameter.tensor.grad().clone();
    parameter.tensor.mutable_grad().reset();
  }
  return result;
}

TEST(unit, loss_without_logits) {
  const auto task = make_task("sequence", {{"problem", Value("copy")}});
  const TaskForm form = task->form();
  Batch batch = task->training_batch(0, 3);
  batch.target.select(0, 1).narrow(0, 0, 2).fill_(-1);
  for (const auto& [tied, rule] :
       {std::pair(false, CrossEntropyRule{}), std::pair(true, CrossEntropyRule{}),
        std::pair(true, CrossEntropyRule{0.1, 0.0}),
        std::pair(false, CrossEntropyRule{0.2, 0.01})}) {
    ModelOptions options =
        tiny_options(form, [tied = tied](ModelOptions& o) { o.head.tied = tied; });
    Model model(options, form, 3);
    model.to(at::kDouble);
    const int64_t logits = batch.target.numel() * form.output.size;
    const auto plain = pass_of(model, *task, batch, logits, rule);
    const auto without = pass_of(model, *task, batch, logits - 1, rule);
    EXPECT_FALSE(plain.unprojected);
    EXPECT_TRUE(without.unprojected);
    EXPECT_NEAR(plain.loss, without.loss, 1e-12 * plain.loss);
    EXPECT_EQ(plain.count, without.count);
    for (const auto& [name, gradient] : plain.gradients)
      EXPECT_TRUE(at::allclose(gradient, without.gradients.at(name), 1e-10, 1e-14)) << name;
  }
  // A head with a hidden layer is no plain map.
  ModelOptions deep = tiny_options(form, [](ModelOptions& o) { o.head.hidden = 5; });
  Model model(deep, form, 3);
  EXPECT_FALSE(pass_of(model, *task, batch, 0).unprojected);
}

TEST(unit, evaluation_in_parts) {
  const auto task = make_task("sequence", {{"problem", Value("copy")}});
  Model model(tiny_options(task->form(), [](ModelOptions&) {}), task->form(), 3);
  model.to(at::kDouble);
  model.eval();
  const std::unique_ptr<Processes> alone = Processes::from_environment();
  EvaluationRequest request;
  request.items = 7;
  request.batch = 3;
  request.precision = "float64";
  const auto whole = evaluate(model, *task, request, *alone);
  request.most_logits = 1;
  for (const auto& [name, value] : evaluate(model, *task, request, *alone))
    EXPECT_NEAR(value, whole.at(name), 1e-12) << name;
}

TEST(unit, loss_by_definition) {
  const Tensor logits = at::tensor({1.0, 2.0, 0.5, -1.0, 0.0, 3.0}, at::kDouble).view({1, 2, 3});
  const Tensor target = at::tensor({1, -1}, at::kLong).view({1, 2});
  const double lse = std::log(std::exp(1.0) + std::exp(2.0) + std::exp(0.5));
  const LossSum loss = cross_entropy_sum(logits, target, {0.3, 0.1});
  EXPECT_EQ(loss.count, 1.0);
  EXPECT_NEAR(loss.sum.item<double>(), lse - 0.7 * 2.0 - 0.3 * 3.5 / 3.0 + 0.1 * lse * lse, 1e-12);
}

}  // namespace
}  // namespace formwork::test

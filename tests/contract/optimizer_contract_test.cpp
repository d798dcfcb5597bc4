// Every optimizer: learns a small model, in float32 and for bfloat16 parameters, and goes on from a
// saved state to the bit. Every schedule: finite, never negative, clamped at its end.
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "methods/optimizer/optimizer.h"
#include "methods/schedule/schedule.h"
#include "support/dynamic.h"
#include "support/tiny_model.h"

namespace formwork::test {
namespace {

Tensor loss_of(Model& model) {
  const Tensor ids = tiny_tokens();
  const Tensor y = run(model, ids).to(at::kFloat);
  return at::cross_entropy_loss(y.flatten(0, 1), ids.flatten(), {}, at::Reduction::Mean, -1);
}

struct Training {
  explicit Training(const std::string& name, at::ScalarType type = at::kFloat) {
    const TaskForm task = token_task("encoder");
    model = std::make_shared<Model>(tiny_options(task, [](ModelOptions&) {}), task, 5);
    model->to(type);
    OptimizerSite site;
    site.parameters = model->parameters();
    Choice<Optimizer> choice(name);
    // Methods with steps relative to the parameter or with signs keep their own scale.
    if (name == "sgd") choice.set({{"lr", Value(0.1)}});
    optimizer = choice.make(site);
  }
  double step() {
    const Tensor loss = loss_of(*model);
    loss.backward();
    optimizer->step(1.0);
    optimizer->zero_grad();
    return loss.item<double>();
  }
  std::shared_ptr<Model> model;
  std::shared_ptr<Optimizer> optimizer;
};

void learns(const std::string& name, at::ScalarType type) {
  Training training(name, type);
  const double first = training.step();
  double last = first;
  for (int i = 0; i < 60; ++i) last = training.step();
  EXPECT_TRUE(std::isfinite(last));
  EXPECT_LT(last, first) << name;
}

void resumes(const std::string& name) {
  Training whole(name), begun(name), resumed(name);
  for (int i = 0; i < 7; ++i) {
    whole.step();
    begun.step();
  }
  // Both go through the switch to the point that is saved, as the trainer does.
  whole.optimizer->eval();
  begun.optimizer->eval();
  resumed.optimizer->eval();
  {
    const c10::NoGradGuard no_grad;
    const auto saved = begun.model->named_tensors();
    for (auto& [tensor_name, tensor] : resumed.model->named_tensors())
      Tensor(tensor).copy_(saved.at(tensor_name));
    resumed.optimizer->load_state(begun.optimizer->state());
  }
  whole.optimizer->train();
  resumed.optimizer->train();
  for (int i = 0; i < 13; ++i) EXPECT_EQ(whole.step(), resumed.step()) << "step " << i;
}

void schedule_contract(const std::string& name) {
  ScheduleSite site;
  const std::shared_ptr<Schedule> schedule = Choice<Schedule>(name).make(site);
  for (const int64_t total : {1, 10, 1000}) {
    for (int64_t step = 0; step <= total + 5; ++step) {
      const double factor = schedule->factor(step, total);
      EXPECT_TRUE(std::isfinite(factor) && factor >= 0.0) << step << " of " << total;
    }
    EXPECT_EQ(schedule->factor(total, total), schedule->factor(total + 100, total)) << total;
  }
}

const TestSource optimizer_contracts([] {
  for (const std::string& name : Registry<Optimizer>::instance().names())
    add_test("contract.optimizer", name, [name] {
      learns(name, at::kFloat);
      learns(name, at::kBFloat16);
      resumes(name);
    });
  for (const std::string& name : Registry<Schedule>::instance().names())
    add_test("contract.schedule", name, [name] { schedule_contract(name); });
});

}  // namespace
}  // namespace formwork::test

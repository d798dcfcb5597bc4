// Activation checkpointing changes no bit, whatever the method.
#include <ATen/Context.h>
#include <gtest/gtest.h>

#include "support/dynamic.h"
#include "support/tiny_model.h"
#include "training/precision.h"

namespace formwork::test {
namespace {

struct Pass {
  std::vector<Tensor> losses;
  std::map<std::string, Tensor> gradients, buffers;
};

/// Two passes, whose gradients add up, with dropout and running statistics that move.
Pass two_passes(const ModelOptions& options, const TaskForm& task, bool checkpointing,
                const std::string& precision) {
  Model model(options, task, 7);
  model.checkpoint_activations(checkpointing);
  Pass pass;
  for (uint64_t i = 0; i < 2; ++i) {
    at::manual_seed(20 + i);
    ModelOutput out;
    {
      const PrecisionGuard guard(precision);
      ModelInput input;
      input.input =
          task.input.kind == InputForm::Kind::tokens ? tiny_tokens(3 + i) : tiny_images(3 + i);
      out = model.forward(input);
    }
    Tensor loss = out.y.to(at::kFloat).square().mean();
    for (const Tensor& extra : out.losses) loss = loss + extra;
    pass.losses.push_back(loss.detach());
    loss.backward();
  }
  for (const Parameter& parameter : model.parameters())
    if (parameter.tensor.grad().defined())
      pass.gradients.emplace(parameter.name, parameter.tensor.grad());
  for (const auto& [name, tensor] : model.buffers()) pass.buffers.emplace(name, tensor);
  return pass;
}

void expect_same_bits(const std::map<std::string, Tensor>& kept,
                      const std::map<std::string, Tensor>& again) {
  ASSERT_EQ(kept.size(), again.size());
  for (const auto& [name, tensor] : kept) EXPECT_TRUE(at::equal(tensor, again.at(name))) << name;
}

void expect_same(const ModelOptions& options, const TaskForm& task, const std::string& precision) {
  SCOPED_TRACE(precision);
  const Pass kept = two_passes(options, task, false, precision);
  const Pass again = two_passes(options, task, true, precision);
  EXPECT_GT(kept.gradients.size(), 0u);
  for (size_t i = 0; i < kept.losses.size(); ++i)
    EXPECT_TRUE(at::equal(kept.losses[i], again.losses[i])) << "pass " << i;
  expect_same_bits(kept.gradients, again.gradients);
  expect_same_bits(kept.buffers, again.buffers);
}

/// Without dropout of attention weights where a mixer has none to drop.
void settle_attention_dropout(ModelOptions& options, const TaskForm& task) {
  try {
    Model(options, task, 7);
  } catch (const Error&) {
    options.attention_dropout = 0.0;
  }
}

void checkpointing_contract(const std::string& axis, const std::string& name) {
  int forms = 0;
  for (const char* form : {"encoder", "decoder", "images"}) {
    SCOPED_TRACE(form);
    const bool images = std::string(form) == "images";
    if (images && forms > 0) continue;
    const TaskForm task = images ? image_task() : token_task(form);
    ModelOptions options = tiny_options(task, [&](ModelOptions& o) {
      if (images) o.stem.select("patch", "stem");
      o.dropout = o.attention_dropout = 0.2;
      // Parameters that several applications share: their gradients must add up in the same order.
      o.depth_plan.select("looped", "depth");
      choice_of(o, axis)->select(name, axis);
      if (axis == "wiring") o.every_layer.channel_wiring = o.every_layer.wiring;
      if ((axis == "mixer" || axis == "wiring") && !valid(o, task))
        o.position.select("none", "position");
    });
    if (!valid(options, task)) continue;
    ++forms;
    settle_attention_dropout(options, task);
    expect_same(options, task, "float32");
    expect_same(options, task, "bfloat16");
  }
  EXPECT_GT(forms, 0) << "the method fits neither an encoder nor a decoder";
}

const TestSource checkpointing_contracts([] {
  ModelOptions probe;
  for (const MethodInfo* method : catalogue())
    if (choice_of(probe, method->axis))
      add_test("contract.checkpointing." + method->axis, method->name,
               [method] { checkpointing_contract(method->axis, method->name); });
});

}  // namespace
}  // namespace formwork::test

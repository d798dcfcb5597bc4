// A model that holds its weights in 8 or 16 bits beside itself in float32.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "support/tiny_model.h"

namespace formwork::test {
namespace {

using Change = std::function<void(ModelOptions&)>;

/// A small decoder that has learnt to go on with a short text, by plain gradient descent.
std::shared_ptr<Model> trained(const Change& change) {
  const TaskForm task = token_task("decoder");
  auto model = std::make_shared<Model>(tiny_options(task, change), task, 1);
  const Tensor ids = tiny_tokens(), from = ids.slice(1, 0, kLength - 1), to = ids.slice(1, 1);
  for (int step = 0; step < 40; ++step) {
    const Tensor loss = at::cross_entropy_loss(run(*model, from).flatten(0, 1), to.reshape({-1}));
    torch::autograd::backward({loss}, {});
    const c10::NoGradGuard no_grad;
    for (const Parameter& parameter : model->parameters()) {
      if (!parameter.tensor.grad().defined()) continue;
      Tensor tensor = parameter.tensor;
      tensor.sub_(parameter.tensor.grad(), 0.2);
      parameter.tensor.mutable_grad().reset();
    }
  }
  model->eval();
  return model;
}

double relative_error(const Tensor& found, const Tensor& expected) {
  return ((found - expected).norm() / expected.norm()).item<double>();
}

TEST(property, packed_weights_give_close_logits_in_less_memory) {
  for (const bool tied : {false, true}) {
    const Change change = [tied](ModelOptions& options) { options.head.tied = tied; };
    for (const PackedForm form : {PackedForm::int8, PackedForm::bfloat16}) {
      const auto model = trained(change);
      const c10::NoGradGuard no_grad;
      const Tensor before = run(*model, tiny_tokens());
      const int64_t bytes = model->weight_bytes(), parameters = model->parameter_count();
      const PackedMaps maps = model->pack(form);
      EXPECT_EQ(maps.left, 0);
      EXPECT_EQ(maps.packed, 2 * 6 + 1);  // four maps of each mixer, two of each channel, the head
      const double error = relative_error(run(*model, tiny_tokens()), before);
      EXPECT_LT(error, form == PackedForm::int8 ? 0.02 : 0.01);
      EXPECT_GT(error, 0.0);
      // Scales weigh more in maps this narrow.
      EXPECT_LT(model->weight_bytes(), form == PackedForm::int8 ? bytes / 3 : bytes / 2 + 1);
      // The table stays for look-ups.
      EXPECT_LT(model->parameter_count(), parameters);
      EXPECT_TRUE(at::equal(run(*model, tiny_tokens()), run(*model, tiny_tokens())));
    }
  }
}

TEST(property, packed_weights_decode_as_they_read) {
  const auto model = trained([](ModelOptions& options) { options.head.tied = true; });
  const c10::NoGradGuard no_grad;
  model->pack(PackedForm::int8);
  const Tensor ids = tiny_tokens(), whole = run(*model, ids);
  ModelState state = model->make_state(2, kLength);
  EXPECT_TRUE(
      at::allclose(model->next_logits(ids.slice(1, 0, 5), state), whole.select(1, 4), 1e-4, 1e-5));
  for (int64_t n = 5; n < kLength; ++n)
    EXPECT_TRUE(at::allclose(model->next_logits(ids.slice(1, n, n + 1), state), whole.select(1, n),
                             1e-4, 1e-5));
}

TEST(property, packed_weights_leave_what_cannot_be_packed) {
  for (const char* linear : {"sigma_reparam", "zero_mean"}) {
    const auto model = trained([linear](ModelOptions& options) {
      options.linear.select(linear, "linear");
      options.head.tied = true;
    });
    const c10::NoGradGuard no_grad;
    const Tensor before = run(*model, tiny_tokens());
    const PackedMaps maps = model->pack(PackedForm::bfloat16);
    EXPECT_EQ(maps.left, 12) << linear;
    EXPECT_EQ(maps.packed, 1) << linear;  // the tied table
    EXPECT_LT(relative_error(run(*model, tiny_tokens()), before), 0.01) << linear;
  }
  const auto wide = trained([](ModelOptions&) {});
  wide->to(at::kDouble);
  EXPECT_EQ(wide->pack(PackedForm::int8).packed, 0);
}

TEST(property, packed_weights_refuse_gradients) {
  const auto model = trained([](ModelOptions&) {});
  model->pack(PackedForm::int8);
  try {
    run(*model, tiny_tokens());
    FAIL() << "no gradient can be had";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("keeps no gradients"), std::string::npos);
  }
}

}  // namespace
}  // namespace formwork::test

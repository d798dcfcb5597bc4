// What every method of a model's axes must keep, whatever it is: a new file is tested the day it
// appears.
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "support/dynamic.h"
#include "support/tiny_model.h"
#include "training/precision.h"

namespace formwork::test {
namespace {

double largest(const Tensor& x) {
  return x.abs().max().item<double>();
}

/// One method in one form of model.
class Subject {
 public:
  Subject(const ModelOptions& options, const TaskForm& task) : options_(options), task_(task) {}
  std::shared_ptr<Model> make(uint64_t seed = 7, at::ScalarType type = at::kDouble) const {
    auto model = std::make_shared<Model>(options_, task_, seed);
    model->to(type);
    return model;
  }
  bool causal() const { return options_.causal(); }
  bool exact_gradient() const {
    return options_.every_layer.norm.traits().exact_gradient &&
           options_.conditioning.traits().exact_gradient;
  }
  bool tokens() const { return task_.input.kind == InputForm::Kind::tokens; }
  Tensor input() const { return tokens() ? tiny_tokens() : tiny_images(); }

  void same_seed_same_output() const;
  void gradients_are_right() const;
  void extreme_input_is_finite() const;
  void padding_does_not_matter() const;
  void future_does_not_matter() const;
  void decoding_is_the_full_pass() const;
  void saving_keeps_the_output() const;
  void trains_in_bfloat16() const;

 private:
  ModelOptions options_;
  TaskForm task_;
};

void Subject::same_seed_same_output() const {
  const auto a = make(), b = make(), other = make(8);
  EXPECT_TRUE(at::equal(run(*a, input()), run(*b, input())));
  EXPECT_FALSE(at::equal(run(*a, input()), run(*other, input())));
}

/// The derivative along one random direction of all parameters, against central differences.
void Subject::gradients_are_right() const {
  const auto model = make();
  const RandomStream stream(5);
  const Tensor cotangent =
      normal_tensor(run(*model, input()).sizes(), 1.0, stream.child("cotangent")).to(at::kDouble);
  const auto loss = [&] { return (run(*model, input()) * cotangent).sum(); };
  loss().backward();
  const c10::NoGradGuard no_grad;
  std::vector<std::pair<Tensor, Tensor>> moves;
  double predicted = 0.0;
  for (const Parameter& parameter : model->parameters()) {
    const Tensor direction =
        normal_tensor(parameter.tensor.sizes(), 1.0, stream.child(parameter.name)).to(at::kDouble);
    if (!parameter.tensor.grad().defined()) continue;
    predicted += (parameter.tensor.grad() * direction).sum().item<double>();
    moves.emplace_back(parameter.tensor, direction);
  }
  const double h = 1e-6;
  const auto move = [&](double by) {
    for (auto& [tensor, direction] : moves) tensor.add_(direction, by);
  };
  move(h);
  const double above = loss().item<double>();
  move(-2 * h);
  const double below = loss().item<double>();
  const double measured = (above - below) / (2 * h);
  EXPECT_NEAR(predicted, measured, 1e-5 * std::max(1.0, std::abs(measured)));
  EXPECT_GT(std::abs(measured), 1e-6);
}

void Subject::extreme_input_is_finite() const {
  const c10::NoGradGuard no_grad;
  for (const double scale : {0.0, 1e-6, 1e4}) {
    const auto model = make(7, at::kFloat);
    model->eval();
    for (Parameter& parameter : model->parameters())
      if (parameter.role == Role::embedding) parameter.tensor.mul_(scale);
    EXPECT_TRUE(at::isfinite(run(*model, input())).all().item<bool>()) << "scale " << scale;
  }
}

void Subject::padding_does_not_matter() const {
  const c10::NoGradGuard no_grad;
  const auto model = make();
  model->eval();
  Tensor valid = at::ones({2, kLength}, at::kBool);
  valid[0].slice(0, 7).fill_(false);
  valid[1].slice(0, 3).fill_(false);
  const Tensor a = tiny_tokens(3);
  const Tensor b = at::where(valid, a, (a + 1).remainder(kVocabulary));
  const Tensor difference = (run(*model, a, valid) - run(*model, b, valid)).abs().amax(-1);
  EXPECT_LE(largest(difference.masked_select(valid)), 1e-12);
}

void Subject::future_does_not_matter() const {
  const c10::NoGradGuard no_grad;
  const auto model = make();
  model->eval();
  const Tensor before = run(*model, tiny_tokens());
  for (int64_t j = 1; j < kLength; ++j) {
    Tensor changed = tiny_tokens();
    changed.select(1, j).add_(1).remainder_(kVocabulary);
    const Tensor difference = run(*model, changed) - before;
    EXPECT_LE(largest(difference.slice(1, 0, j)), 1e-12) << "token " << j;
    EXPECT_GT(largest(difference.slice(1, j, j + 1)), 0.0) << "token " << j;
  }
}

void Subject::decoding_is_the_full_pass() const {
  const c10::NoGradGuard no_grad;
  const auto model = make();
  model->eval();
  const Tensor ids = tiny_tokens();
  const Tensor full = run(*model, ids);
  for (const int64_t prefill : {1, 5, 11}) {
    ModelState state = model->make_state(2, kLength);
    ModelInput input;
    input.input = ids.slice(1, 0, prefill);
    std::vector<Tensor> parts{model->forward(input, &state).y};
    for (int64_t i = prefill; i < kLength; ++i) {
      input.input = ids.slice(1, i, i + 1);
      parts.push_back(model->forward(input, &state).y);
    }
    EXPECT_LE(largest(at::cat(parts, 1) - full), 1e-10) << "prefill " << prefill;
  }
}

void Subject::saving_keeps_the_output() const {
  const auto a = make(7), b = make(8);
  run(*a, input());  // moves running statistics, if there are any
  a->eval();
  b->eval();
  {
    const c10::NoGradGuard no_grad;
    const auto saved = a->named_tensors();
    for (auto& [name, tensor] : b->named_tensors()) Tensor(tensor).copy_(saved.at(name));
  }
  EXPECT_TRUE(at::equal(run(*a, input()), run(*b, input())));
}

void Subject::trains_in_bfloat16() const {
  const auto model = make(7, at::kFloat);
  Tensor loss;
  {
    const PrecisionGuard guard("bfloat16");
    loss = run(*model, input()).to(at::kFloat).square().mean();
  }
  loss.backward();
  EXPECT_TRUE(std::isfinite(loss.item<double>()));
  for (const Parameter& parameter : model->parameters())
    if (parameter.tensor.grad().defined()) {
      EXPECT_TRUE(at::isfinite(parameter.tensor.grad()).all().item<bool>()) << parameter.name;
    }
}

void check_all(const Subject& subject) {
  subject.same_seed_same_output();
  if (subject.exact_gradient()) subject.gradients_are_right();
  subject.extreme_input_is_finite();
  if (subject.tokens()) subject.padding_does_not_matter();
  subject.saving_keeps_the_output();
  subject.trains_in_bfloat16();
  if (!subject.causal()) return;
  subject.future_does_not_matter();
  subject.decoding_is_the_full_pass();
}

void contract(const std::string& axis, const std::string& name) {
  int forms = 0;
  for (const char* form : {"encoder", "decoder"}) {
    const TaskForm task = token_task(form);
    const ModelOptions options = tiny_options(task, [&](ModelOptions& o) {
      choice_of(o, axis)->select(name, axis);
      if (axis == "wiring") o.every_layer.channel_wiring = o.every_layer.wiring;
      // Positions that do not fit a mixer are another axis' business.
      if ((axis == "mixer" || axis == "wiring") && !valid(o, task))
        o.position.select("none", "position");
    });
    if (!valid(options, task)) continue;
    SCOPED_TRACE(form);
    ++forms;
    check_all(Subject(options, task));
  }
  const TaskForm images = image_task();
  const ModelOptions options = tiny_options(images, [&](ModelOptions& o) {
    o.stem.select("patch", "stem");
    choice_of(o, axis)->select(name, axis);
    if (axis == "wiring") o.every_layer.channel_wiring = o.every_layer.wiring;
  });
  if (forms == 0 && valid(options, images)) {
    SCOPED_TRACE("images");
    ++forms;
    check_all(Subject(options, images));
  }
  EXPECT_GT(forms, 0) << "the method fits neither an encoder nor a decoder";
}

const TestSource model_contracts([] {
  ModelOptions probe;
  for (const MethodInfo* method : catalogue())
    if (choice_of(probe, method->axis))
      add_test("contract." + method->axis, method->name,
               [method] { contract(method->axis, method->name); });
});

}  // namespace
}  // namespace formwork::test

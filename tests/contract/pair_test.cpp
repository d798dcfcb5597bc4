// Every method with every compatible method of another axis builds, runs and has finite gradients.
#include <gtest/gtest.h>

#include "support/dynamic.h"
#include "support/tiny_model.h"

namespace formwork::test {
namespace {

const char* const kAxes[] = {"mixer",   "position", "norm",         "wiring",
                             "channel", "depth",    "conditioning", "linear"};

void run_pair(const ModelOptions& options, const TaskForm& task) {
  Model model(options, task, 3);
  const Tensor y = run(model, tiny_tokens());
  EXPECT_TRUE(at::isfinite(y).all().item<bool>());
  y.square().mean().backward();
  for (const Parameter& parameter : model.parameters())
    if (parameter.tensor.grad().defined()) {
      EXPECT_TRUE(at::isfinite(parameter.tensor.grad()).all().item<bool>()) << parameter.name;
    }
}

void pairs(const std::string& first, const std::string& second) {
  ModelOptions probe;
  int64_t ran = 0;
  for (const std::string& a : choice_of(probe, first)->kinds())
    for (const std::string& b : choice_of(probe, second)->kinds())
      for (const char* form : {"encoder", "decoder"}) {
        SCOPED_TRACE(a + " with " + b + ", " + form);
        const TaskForm task = token_task(form);
        const ModelOptions options = tiny_options(task, [&](ModelOptions& o) {
          if (first != "position" && second != "position") o.position.select("none", "position");
          choice_of(o, first)->select(a, first);
          choice_of(o, second)->select(b, second);
          o.every_layer.channel_wiring = o.every_layer.wiring;
        });
        if (!valid(options, task)) continue;
        ++ran;
        run_pair(options, task);
      }
  EXPECT_GT(ran, 0);
}

const TestSource pair_contracts([] {
  for (size_t i = 0; i < std::size(kAxes); ++i)
    for (size_t j = i + 1; j < std::size(kAxes); ++j)
      add_test(std::string("pair.") + kAxes[i], kAxes[j], [i, j] { pairs(kAxes[i], kAxes[j]); });
});

}  // namespace
}  // namespace formwork::test

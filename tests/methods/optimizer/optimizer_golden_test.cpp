// Trajectories of every optimizer on given gradients against the reference numbers.
#include <gtest/gtest.h>

#include <set>

#include "methods/optimizer/optimizer.h"
#include "support/golden.h"

namespace formwork {
namespace {

Value value_of(const nlohmann::json& json) {
  if (json.is_boolean()) return Value(json.get<bool>());
  if (json.is_number_integer()) return Value(json.get<int64_t>());
  if (json.is_number()) return Value(json.get<double>());
  // Some numbers came as text.
  const std::string text = json.get<std::string>();
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  return *end == '\0' && !text.empty() ? Value(number) : Value(text);
}

Choice<Optimizer> choice_of(const nlohmann::json& config) {
  std::string kind = config.at("optimizer");
  if (kind == "schedule_free_adamw") kind = "schedule_free";
  Table options;
  for (const auto& [key, value] : config.items()) {
    if (key == "optimizer" || value.is_null()) continue;
    if (key == "betas") {
      options.emplace_back("beta1", Value(value.at(0).get<double>()));
      options.emplace_back("beta2", Value(value.at(1).get<double>()));
    } else if (key == "weight_decay_mode") {
      const std::string mode = value;
      options.emplace_back("decay", mode == "decoupled_times_lr" ? "times_lr" : mode);
    } else {
      options.emplace_back(key, value_of(value));
    }
  }
  Choice<Optimizer> choice(kind);
  choice.set(options);
  return choice;
}

std::vector<Parameter> parameters_of(const GoldenCase& golden) {
  std::vector<Parameter> parameters;
  for (const auto& [name, tensor] : golden.under("param.")) {
    EXPECT_TRUE(name.ends_with(".init")) << golden.file << ": " << name;
    parameters.push_back({name.substr(0, name.size() - 5), tensor.clone().requires_grad_(true)});
  }
  return parameters;
}

int64_t steps_of(const GoldenCase& golden, const std::string& parameter) {
  int64_t steps = 0;
  while (golden.has("in.grad." + parameter + ".step" + std::to_string(steps + 1))) ++steps;
  return steps;
}

void run_case(const GoldenCase& golden) {
  OptimizerSite site{parameters_of(golden)};
  ASSERT_FALSE(site.parameters.empty()) << golden.file;
  const auto optimizer = choice_of(golden.config).make(site);
  const int64_t steps = steps_of(golden, site.parameters[0].name);
  ASSERT_GT(steps, 0) << golden.file;
  for (int64_t k = 1; k <= steps; ++k) {
    const std::string step = ".step" + std::to_string(k);
    for (const Parameter& parameter : site.parameters)
      parameter.tensor.mutable_grad() = golden.at("in.grad." + parameter.name + step).clone();
    optimizer->step(1.0);
    for (const Parameter& parameter : site.parameters)
      expect_close(golden.file + " out." + parameter.name + step, parameter.tensor,
                   golden.at("out." + parameter.name + step));
  }
  const auto state = optimizer->state();
  optimizer->eval();
  for (const Parameter& parameter : site.parameters) {
    const std::string out = "out." + parameter.name;
    if (golden.has(out + ".x_final"))
      expect_close(golden.file + " " + out + ".x_final", parameter.tensor,
                   golden.at(out + ".x_final"));
    if (golden.has(out + ".z_final"))
      expect_close(golden.file + " " + out + ".z_final", state.at("base." + parameter.name),
                   golden.at(out + ".z_final"));
  }
}

TEST(golden, optimizer_baselines) {
  int64_t ran = 0;
  for (const GoldenCase& golden : golden_cases("optimizer_baselines")) {
    if (!golden.config.contains("optimizer")) continue;  // schedules have a test of their own
    run_case(golden);
    ++ran;
  }
  EXPECT_TRUE(ran > 0 || testing::Test::IsSkipped());
}

// `in.lr` is the rate of each step, so the schedule's factor on lr = 1.
TEST(golden, lra_tasks_adam_decoupled) {
  for (const GoldenCase& golden : golden_cases("lra_tasks")) {
    if (!golden.has("in.grads") || !golden.has("in.lr")) continue;
    Choice<Optimizer> choice("adamw");
    choice.set({{"lr", 1.0},
                {"beta1", golden.option("beta1", 0.9)},
                {"beta2", golden.option("beta2", 0.999)},
                {"eps", golden.option("eps", 1e-8)},
                {"weight_decay", golden.option("weight_decay", 0.0)}});
    OptimizerSite site{{{"p", golden.at("in.param").clone().requires_grad_(true)}}};
    const auto optimizer = choice.make(site);
    const at::Tensor gradients = golden.at("in.grads");
    for (int64_t k = 0; k < gradients.size(0); ++k) {
      site.parameters[0].tensor.mutable_grad() = gradients[k].clone();
      optimizer->step(golden.at("in.lr")[k].item<double>());
      expect_close(golden.file + " step " + std::to_string(k), site.parameters[0].tensor,
                   golden.at("out.y")[k]);
    }
  }
}

}  // namespace
}  // namespace formwork

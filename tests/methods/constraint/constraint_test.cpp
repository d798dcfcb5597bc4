#include "methods/constraint/constraint.h"

#include <gtest/gtest.h>

namespace formwork {
namespace {

std::shared_ptr<Constraint> make(const std::string& kind, const Table& options = {}) {
  ConstraintSite site;
  return Choice<Constraint>(kind).set(options).make(site);
}

Parameter parameter(const std::string& name, at::IntArrayRef shape, Role role,
                    at::ScalarType type = at::kDouble) {
  Tensor tensor = normal_tensor(shape, 1.0, RandomStream(1).child(name)).to(type);
  tensor.requires_grad_(true);
  tensor.mutable_grad() = normal_tensor(shape, 1.0, RandomStream(2).child(name)).to(type);
  return {name, tensor, role};
}

std::vector<Parameter> some_parameters() {
  return {parameter("embedding", {7, 3}, Role::embedding), parameter("query", {3, 3}, Role::query),
          parameter("gain", {3}, Role::norm), parameter("up", {5, 3}, Role::up),
          parameter("bias", {5}, Role::bias)};
}

Tensor flat(const std::vector<Parameter>& parameters) {
  std::vector<Tensor> parts;
  for (const Tensor& gradient : gradients_of(parameters)) parts.push_back(gradient.flatten());
  return at::cat(parts).clone();
}

TEST(property, optimizer_baselines_clipping_keeps_direction) {
  std::vector<Parameter> parameters = some_parameters();
  parameters.push_back({"idle", at::zeros({2}).requires_grad_(true)});
  const Tensor before = flat(parameters);
  const double norm = before.norm().item<double>();
  const auto clipping = make("gradient_clipping", {{"max_norm", 0.5}});
  EXPECT_TRUE(std::isnan(clipping->last_norm()));
  clipping->before_step(parameters);
  const Tensor after = flat(parameters);
  EXPECT_NEAR(clipping->last_norm(), norm, 1e-12 * norm);
  EXPECT_LT((after - before * (0.5 / (norm + 1e-6))).abs().max().item<double>(), 1e-12);
  const Tensor cosine = at::dot(before, after) / (before.norm() * after.norm());
  EXPECT_NEAR(cosine.item<double>(), 1.0, 1e-12);
}

TEST(property, optimizer_baselines_clipping_leaves_small_gradients) {
  const std::vector<Parameter> parameters = some_parameters();
  const Tensor before = flat(parameters);
  make("gradient_clipping", {{"max_norm", 1e3}})->before_step(parameters);
  EXPECT_TRUE(at::equal(before, flat(parameters)));
}

TEST(property, optimizer_baselines_clipping_shows_bad_gradients) {
  const std::vector<Parameter> parameters = some_parameters();
  parameters[0].tensor.mutable_grad()[0][0] = NAN;
  const auto clipping = make("gradient_clipping");
  clipping->before_step(parameters);
  EXPECT_FALSE(std::isfinite(clipping->last_norm()));
  EXPECT_EQ(flat(parameters).isnan().sum().item<int64_t>(), 1);
}

TEST(property, optimizer_baselines_value_clipping) {
  const std::vector<Parameter> parameters = some_parameters();
  const Tensor before = flat(parameters);
  make("value_clipping", {{"max_value", 0.3}})->before_step(parameters);
  EXPECT_TRUE(at::equal(before.clamp(-0.3, 0.3), flat(parameters)));
}

std::vector<double> decays(const Table& options) {
  std::vector<Parameter> parameters = some_parameters();
  make("weight_decay", options)->prepare(parameters);
  std::vector<double> all;
  for (const Parameter& parameter : parameters) all.push_back(parameter.decay);
  return all;
}

TEST(property, optimizer_baselines_decay_rules) {
  EXPECT_EQ(decays({}), (std::vector<double>{0, 1, 0, 1, 0}));
  EXPECT_EQ(decays({{"roles", List{Value("up"), Value("bias")}}}),
            (std::vector<double>{0, 0, 0, 1, 0}));
  EXPECT_EQ(decays({{"exclude", List{Value("query")}}, {"min_dimensions", int64_t{0}}}),
            (std::vector<double>{1, 0, 1, 1, 1}));
  EXPECT_EQ(decays({{"strength", 0.5}}), (std::vector<double>{0, 0.5, 0, 0.5, 0}));
  EXPECT_EQ(Choice<Constraint>("none").kind(), "none");
}

TEST(property, optimizer_baselines_constraint_errors) {
  const auto message = [](const std::string& kind, const Table& options) -> std::string {
    try {
      make(kind, options);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(message("gradient_clipping", {{"max_norm", 0.0}}).find("max_norm"), std::string::npos);
  const std::string unknown = message("weight_decay", {{"roles", List{Value("qery")}}});
  EXPECT_NE(unknown.find("weight_decay.roles"), std::string::npos) << unknown;
  EXPECT_NE(unknown.find("query"), std::string::npos) << unknown;
}

}  // namespace
}  // namespace formwork

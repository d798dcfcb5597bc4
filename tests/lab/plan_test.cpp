#include "lab/plan.h"

#include <gtest/gtest.h>

#include "support/refusal.h"
#include "training/recipe.h"

namespace formwork {
namespace {

const std::string kRecipe = R"(
name = "tiny"
[task]
kind = "sequence"
problem = "copy"
length = 4
symbols = 4
validation_items = 4
[model]
width = 8
depth = 1
heads = 2
norm = "layer_norm"
[train]
batch = 2
seed = 5
[train.budget]
steps = 20
)";

Plan plan_of(const std::string& more, const PlanRequest& request = {}) {
  return make_plan(parse_toml(kRecipe + more, "tiny.toml"), "tiny.toml", request);
}

const std::string kRms = R"(
[[variant]]
name = "rms, at last"
set = { "model.norm.eps" = 0.25, "model.norm.kind" = "rms_norm" }
)";

TEST(property, lab_plan) {
  const Plan plan = plan_of(kRms);
  ASSERT_EQ(plan.variants.size(), 2u);
  EXPECT_EQ(plan.variants[0].name, "baseline");
  EXPECT_TRUE(plan.variants[0].baseline);
  EXPECT_EQ(plan.variants[1].folder, "rms-at-last");
  EXPECT_EQ(plan.seeds, (std::vector<int64_t>{5, 6, 7}));
  EXPECT_EQ(plan.equal, "steps");
  EXPECT_EQ(plan.budget, 20.0);
  EXPECT_EQ(plan.metric, "accuracy");
  EXPECT_TRUE(plan.higher_is_better);
  // The kind is set before the option that belongs to it, however they were written.
  const Recipe recipe = Recipe::from(parse_toml(plan.variants[1].recipe, "rms"), "rms");
  EXPECT_EQ(recipe.model.every_layer.norm.kind(), "rms_norm");
  EXPECT_NE(plan.variants[1].recipe.find("eps = 0.25"), std::string::npos);
  EXPECT_EQ(recipe.train.log_every, 1);
}

TEST(property, lab_plan_takes_tables_and_a_named_baseline) {
  const Plan plan = plan_of(R"(
[[variant]]
name = "post"
[variant.set.model.wiring]
kind = "post"
[[variant]]
name = "pre"
baseline = true
)");
  EXPECT_EQ(plan.variants[0].name, "pre");
  EXPECT_EQ(plan.variants[1].set.front().first, "model.wiring.kind");
}

TEST(property, lab_plan_converts_the_budget) {
  PlanRequest request;
  request.equal = "tokens";
  const Plan tokens = plan_of(kRms, request);
  EXPECT_EQ(tokens.equal, "tokens");
  EXPECT_GT(tokens.budget, 20.0 * 2 * 4);
  request.equal = "flops";
  EXPECT_GT(plan_of(kRms, request).budget, 1e4);
  const Recipe recipe = Recipe::from(parse_toml(tokens.variants[1].recipe, "t"), "t");
  EXPECT_FALSE(recipe.train.budget.steps);
  EXPECT_EQ(*recipe.train.budget.tokens, tokens.budget);
  EXPECT_EQ(recipe.train.evaluate.every, 2);
}

void expect_refused(const std::string& more, std::initializer_list<std::string> words) {
  test::expect_error([&] { plan_of(more); }, Fault::request, words);
}

TEST(property, lab_plan_refuses) {
  expect_refused("[[variant]]\nname = \"a\"\n", {"sets nothing"});
  expect_refused("[[variant]]\nset = { \"model.width\" = 16 }\n", {"has no name"});
  expect_refused("[[variant]]\nname = \"a\"\nsets = 1\n", {"unknown key 'sets'"});
  expect_refused("[[variant]]\nname = \"a\"\nset = { \"model.norm.knd\" = \"x\" }\n",
                 {"variant 'a'", "knd"});
  expect_refused(
      "[[variant]]\nname = \"a b\"\nset = { \"model.width\" = 16 }\n[[variant]]\n"
      "name = \"a-b\"\nset = { \"model.width\" = 32 }\n",
      {"a name of its own"});
}

TEST(property, lab_plan_is_kept) {
  const Plan plan = plan_of(kRms);
  const Plan again = plan_from(plan_value(plan), "plan.json");
  EXPECT_EQ(again.variants[1].recipe, plan.variants[1].recipe);
  EXPECT_EQ(again.budget, plan.budget);
  EXPECT_EQ(again.seeds, plan.seeds);
  check_same_plan(plan, again, "folder");
  PlanRequest more_seeds;
  more_seeds.seeds = 5;
  check_same_plan(plan_of(kRms, more_seeds), plan, "folder");
  PlanRequest changed;
  changed.equal = "tokens";
  test::expect_error([&] { check_same_plan(plan_of(kRms, changed), plan, "folder"); },
                     Fault::request, {"folder", "equal steps"});
  test::expect_error([&] { check_same_plan(plan_of(""), plan, "folder"); }, Fault::request,
                     {"'rms, at last'"});
}

TEST(property, lab_recipe_difference) {
  const List found = recipe_difference("a = 1\n[b]\nc = 2\nd = \"x\"\n", "a = 1\n[b]\nc = 3\n");
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(*found[0].find("key")->get<std::string>(), "b.c");
  EXPECT_EQ(*found[0].find("variant")->get<int64_t>(), 3);
  EXPECT_EQ(*found[1].find("key")->get<std::string>(), "b.d");
  EXPECT_TRUE(found[1].find("variant")->is_null());
}

}  // namespace
}  // namespace formwork

#include "methods/schedule/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <regex>

#include "support/golden.h"

namespace formwork {
namespace {

std::shared_ptr<Schedule> make(const std::string& kind, const Table& options) {
  ScheduleSite site;
  return Choice<Schedule>(kind).set(options).make(site);
}

at::Tensor factors(const Schedule& schedule, const at::Tensor& steps, int64_t total) {
  at::Tensor out = at::empty(steps.sizes(), at::kDouble);
  for (int64_t i = 0; i < steps.numel(); ++i)
    out[i].fill_(schedule.factor(steps[i].item<int64_t>(), total));
  return out;
}

/// The schedule behind a name of the reference file, such as wsd_exp.
std::shared_ptr<Schedule> schedule_of(const std::string& name, const GoldenCase& golden) {
  const Value warmup(golden.option<int64_t>("warmup", 0));
  Table options;
  const auto low = golden.config.value("min_ratio", nlohmann::json::object());
  if (low.contains(name)) options.emplace_back("min_ratio", low.at(name).get<double>());
  if (name == "trapezoid_speedrun") {
    options.emplace_back("cooldown_fraction", golden.option("trapezoid_cooldown_frac", 0.4));
    return make("trapezoid", options);
  }
  options.emplace_back("warmup", warmup);
  if (name == "inverse_sqrt") return make("rsqrt", options);
  if (!name.starts_with("wsd_")) return make(name, options);
  options.emplace_back("form", name.substr(4));
  options.emplace_back("cooldown", golden.option<int64_t>("cooldown", 0));
  return make("wsd", options);
}

TEST(golden, optimizer_baselines_schedules) {
  for (const GoldenCase& golden : golden_cases("optimizer_baselines")) {
    if (!golden.has("in.step")) continue;
    const int64_t total = golden.option<int64_t>("total", 0);
    for (const auto& [name, expected] : golden.under("out."))
      expect_close(golden.file + " " + name,
                   factors(*schedule_of(name, golden), golden.at("in.step"), total), expected,
                   1e-12);
  }
}

double number_after(const std::string& word, const std::string& text) {
  std::smatch found;
  if (!std::regex_search(text, found, std::regex(word + " +([0-9.eE+-]+)"))) return std::nan("");
  return std::stod(found[1]);
}

TEST(golden, lra_tasks_lr_schedules) {
  for (const GoldenCase& golden : golden_cases("lra_tasks")) {
    if (!golden.has("in.steps_text") || !golden.has("in.steps_image")) continue;
    for (int64_t row = 0; row < golden.at("out.y").size(0); ++row) {
      const std::string rule = golden.config.at("row" + std::to_string(row));
      const auto schedule = make("lra", {{"warmup", number_after("warmup", rule)}});
      expect_close(golden.file + " " + rule,
                   number_after("base", rule) * factors(*schedule, golden.at("in.steps_text"), 0),
                   golden.at("out.y")[row], 1e-12);
    }
    const std::string rule = golden.config.at("image");
    const auto schedule = make("lra", {{"warmup", number_after("warmup", rule)},
                                       {"cycle", number_after("cycle", rule)},
                                       {"form", "cosine"}});
    expect_close(golden.file + " " + rule,
                 number_after("base", rule) * factors(*schedule, golden.at("in.steps_image"), 0),
                 golden.at("out.image"), 1e-12);
  }
}

TEST(property, optimizer_baselines_schedules_stay_in_range) {
  for (const std::string& kind : Registry<Schedule>::instance().names()) {
    ScheduleSite site;
    const auto schedule = Choice<Schedule>(kind).make(site);
    for (const int64_t total : {0, 1, 2, 10, 1000})
      for (const int64_t step : {0, 1, 2, 9, 10, 500, 1000, 5000}) {
        const double factor = schedule->factor(step, total);
        EXPECT_TRUE(factor >= 0 && factor <= 1) << kind << " step " << step << " of " << total;
        if (total > 0 && step > total) {
          EXPECT_EQ(factor, schedule->factor(total, total)) << kind;
        }
      }
  }
}

TEST(property, optimizer_baselines_schedules_by_hand) {
  EXPECT_DOUBLE_EQ(make("constant", {{"warmup", int64_t{4}}})->factor(0, 0), 0.25);
  EXPECT_DOUBLE_EQ(make("constant", {{"warmup", int64_t{4}}})->factor(3, 0), 1.0);
  EXPECT_DOUBLE_EQ(make("constant", {})->factor(0, 10), 1.0);
  EXPECT_DOUBLE_EQ(make("sqrt_steps", {})->factor(511, 0), 1.0);
  EXPECT_DOUBLE_EQ(make("sqrt_steps", {})->factor(4 * 512, 0), 1.0 / 3.0);
  const auto cosine = make("wsd", {{"form", "cosine"}, {"cooldown_fraction", 0.5}});
  EXPECT_DOUBLE_EQ(cosine->factor(50, 100), 1.0);
  EXPECT_NEAR(cosine->factor(75, 100), 0.5, 1e-15);
  EXPECT_NEAR(cosine->factor(100, 100), 0.0, 1e-15);
  // The next cycle starts at the full rate.
  const auto lra = make("lra", {{"form", "cosine"}, {"warmup", int64_t{10}}, {"cycle", 100.0}});
  EXPECT_DOUBLE_EQ(lra->factor(110, 0), 1.0);
  EXPECT_DOUBLE_EQ(lra->factor(60, 0), 0.5);
}

TEST(property, optimizer_baselines_schedule_errors) {
  const auto message = [](const std::string& kind, const Table& options) -> std::string {
    try {
      make(kind, options);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(message("wsd", {{"form", "exp"}}).find("min_ratio"), std::string::npos);
  EXPECT_NE(message("wsd", {{"form", "steep"}}).find("form"), std::string::npos);
  EXPECT_NE(message("cosine", {{"warmup", int64_t{-1}}}).find("warmup"), std::string::npos);
  EXPECT_NE(message("linear", {{"min_ratio", 1.5}}).find("min_ratio"), std::string::npos);
  EXPECT_TRUE(Choice<Schedule>("constant").traits().constant);
  EXPECT_FALSE(Choice<Schedule>("rsqrt").traits().needs_total);
  EXPECT_TRUE(Choice<Schedule>("wsd").traits().needs_total);
}

}  // namespace
}  // namespace formwork

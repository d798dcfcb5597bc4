#include "lab/summary.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "formats/json.h"
#include "lab/curves.h"
#include "lab/live_table.h"
#include "lab/tables.h"
#include "lab/text_table.h"

namespace formwork {
namespace {

Value line(int64_t step, double loss, bool evaluated) {
  Value line{Table{}};
  line["step"] = step;
  line["loss"] = loss;
  line["tokens"] = 10.0 * static_cast<double>(step);
  line["seconds"] = 2.0 * static_cast<double>(step);
  if (evaluated) line["validation_loss"] = loss + 1.0;
  return line;
}

TEST(property, lab_curve) {
  const std::vector<Value> first = {line(1, 4, false), line(2, 3, true), line(3, 2, false),
                                    line(4, 1, true)};
  const std::vector<Value> second = {line(1, 6, false), line(2, 5, true)};
  const Curve all = mean_curve({first, second}, "loss");
  EXPECT_EQ(all.step, (std::vector<int64_t>{1, 2, 3, 4}));
  EXPECT_EQ(all.mean, (std::vector<double>{5, 4, 2, 1}));
  EXPECT_EQ(all.low, (std::vector<double>{4, 3, 2, 1}));
  EXPECT_EQ(all.high, (std::vector<double>{6, 5, 2, 1}));
  const Curve thin = mean_curve({first}, "loss", 2);
  EXPECT_EQ(thin.step, (std::vector<int64_t>{2, 4}));
  EXPECT_EQ(thin.mean, (std::vector<double>{3.5, 1.5}));
  EXPECT_EQ(mean_curve({first, {}}, "validation_loss").mean, (std::vector<double>{4, 2}));
  EXPECT_TRUE(mean_curve({{}, {}}, "loss").mean.empty());
}

TEST(property, lab_when_a_loss_was_reached) {
  const Curve curve = mean_curve({{line(1, 4, false), line(2, 2, false)}}, "loss");
  EXPECT_NEAR(first_at_most(curve, 3.0)->tokens, 15.0, 1e-9);
  EXPECT_NEAR(first_at_most(curve, 3.0)->seconds, 3.0, 1e-9);
  EXPECT_EQ(first_at_most(curve, 5.0)->tokens, 10.0);
  EXPECT_FALSE(first_at_most(curve, 1.0));
}

TEST(property, lab_spikes) {
  std::vector<double> losses;
  for (int i = 0; i < 100; ++i) losses.push_back(2.0 - 0.01 * i + (i % 3) * 0.01);
  EXPECT_EQ(count_spikes(losses), 0);
  losses[40] = 9.0;
  losses[41] = 5.0;
  losses[80] = 4.0;
  EXPECT_EQ(count_spikes(losses), 2);
  EXPECT_EQ(count_spikes({1, 1, 9}), 0);
}

Value sample() {
  // ctest says where the project is; this file's own place serves a program started by hand.
  const char* source = std::getenv("FORMWORK_SOURCE");
  const std::filesystem::path folder = source ? std::filesystem::path(source) / "tests" / "lab"
                                              : std::filesystem::absolute(__FILE__).parent_path();
  const std::string path = (folder / "sample_summary.json").string();
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return parse_json(text.str(), path);
}

int64_t count_of(const std::string& text, char wanted) {
  return std::count(text.begin(), text.end(), wanted);
}

TEST(property, lab_tables) {
  const Value summary = sample();
  const std::string markdown = summary_markdown(summary);
  for (const Value& variant : *summary.find("variants")->get<List>())
    EXPECT_NE(markdown.find("| " + *variant.find("name")->get<std::string>() + " |"),
              std::string::npos);
  EXPECT_NE(markdown.find("no difference seen (sees"), std::string::npos);
  EXPECT_NE(markdown.find("the loss is nan"), std::string::npos);
  const std::string csv = summary_csv(summary);
  std::istringstream lines(csv);
  std::string head, row;
  std::getline(lines, head);
  std::getline(lines, row);
  EXPECT_EQ(count_of(head, ','), count_of(row, ','));
  EXPECT_EQ(count_of(csv, '\n'), 6);
  EXPECT_EQ(count_of(runs_csv(summary), '\n'), 16);
  const std::string shown = summary_text(summary);
  EXPECT_NE(shown.find("diverged (0 of 3 done)"), std::string::npos);
  EXPECT_NE(shown.find("none ≥ "), std::string::npos);
  std::istringstream shown_lines(shown.substr(0, shown.find("the loss is nan")));
  while (std::getline(shown_lines, row)) EXPECT_LE(columns_of(row), 80U) << row;
}

TEST(property, lab_short_figures) {
  EXPECT_EQ(short_figure(0), "0");
  EXPECT_EQ(short_figure(999), "999");
  EXPECT_EQ(short_figure(999.6), "1 k");
  EXPECT_EQ(short_figure(1234567), "1.23 M");
  EXPECT_EQ(short_figure(0.0123), "0.0123");
}

TEST(property, lab_text_table) {
  TextTable table({"a", "ü"});
  table.add({"long", "±1"});
  EXPECT_EQ(table.text(), "a      ü\nlong  ±1\n");
  EXPECT_EQ(columns_of("±1"), 2u);
  TextTable bars({"a|b"});
  EXPECT_EQ(bars.markdown(), "| a\\|b |\n| --- |\n");
}

TEST(property, lab_live_table) {
  Plan plan;
  plan.metric = "accuracy";
  plan.seeds = {1, 2};
  for (const char* name : {"baseline", "rms"}) {
    plan.variants.emplace_back();
    plan.variants.back().name = name;
  }
  std::vector<RunProgress> progress(4);
  progress[0].state = RunState::done;
  progress[0].metric = 0.5;
  progress[1].state = RunState::running;
  progress[1].fraction = 0.25;
  progress[2].state = RunState::diverged;
  const std::vector<std::string> wide = live_lines(plan, progress, 80, 61.0);
  ASSERT_EQ(wide.size(), 4u);
  EXPECT_NE(wide[1].find("0.5  diverged"), std::string::npos) << wide[1];
  EXPECT_NE(wide[2].find("25 %"), std::string::npos) << wide[2];
  EXPECT_EQ(wide[3].substr(0, 23), "2 of 4 runs ended, 56 %");
  for (const std::string& line : live_lines(plan, progress, 30, 61.0))
    EXPECT_LT(columns_of(line), 30u) << line;
}

}  // namespace
}  // namespace formwork

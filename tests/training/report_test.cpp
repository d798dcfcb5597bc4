#include "training/report.h"

#include <gtest/gtest.h>

#include <cmath>

#include "formats/json.h"
#include "support/refusal.h"
#include "support/temporary_folder.h"
#include "training/machine.h"
#include "training/metrics_log.h"

namespace formwork {
namespace {

/// Metrics as a training of 2,000 steps writes them.
Value line_of(int64_t step) {
  const auto s = static_cast<double>(step);
  Value line;
  line["step"] = step;
  line["loss"] =
      1.45 + 2.7 * std::exp(-s / 260) + 0.09 * std::sin(s * 12.9898) + (step == 1311 ? 1.5 : 0.0);
  line["learning_rate"] = 1e-3 * std::min(s / 100, 0.55 + 0.45 * std::cos(s / 2000 * 3.14159));
  line["gradient_norm"] = 0.6 + 3 * std::exp(-s / 120) + 0.2 * std::sin(s * 78.233);
  line["tokens"] = step * 4096;
  line["seconds"] = 0.081 * s;
  line["tokens_per_second"] = 50'500 + 900 * std::sin(s * 0.37);
  line["memory_bytes"] = int64_t{812'000'000} + std::min<int64_t>(step, 60) * 900'000;
  if (step % 100 == 0) {
    line["validation_loss"] = 1.52 + 2.6 * std::exp(-s / 250) + 0.0001 * s * (step > 1500);
    line["validation_accuracy"] = 0.55 - 0.45 * std::exp(-s / 300);
  }
  return line;
}

// tests/use/report_page_test.py opens what this writes in a browser.
TEST(unit, report_page) {
  const test::TemporaryFolder folder("FORMWORK_TEST_REPORT");
  MetricsLog metrics(folder.file("metrics.jsonl"));
  for (int64_t step = 1; step <= 2000; ++step) metrics.append(line_of(step));
  test::write_bytes(folder.file("recipe.toml"),
                    "[task]\nkind = \"characters\" # </script><script>bad()</script> {{title}}\n"
                    "\n[model]\nwidth = 384\ndepth = 6\nheads = 6\n\n[model.norm]\nkind = "
                    "\"layer_norm\"\n\n[optimizer]\nkind = \"adamw\"\nlr = 0.001\n");
  test::write_bytes(folder.file("machine.json"), write_json(describe_machine()));
  Value summary;
  summary["steps"] = int64_t{2000};
  summary["parameters"] = int64_t{10'745'088};
  summary["stopped_by"] = "budget";
  test::write_bytes(folder.file("summary.json"), write_json(summary));
  const std::string path = write_report(folder.path());
  EXPECT_EQ(path, folder.file("report.html"));
  const std::string page = test::read_bytes(path);
  EXPECT_EQ(page.find("{{chart}}"), std::string::npos);
  EXPECT_EQ(page.find("{{data}}"), std::string::npos);
  EXPECT_EQ(page.find("<script>bad"), std::string::npos);
  EXPECT_NE(page.find("Chart.js"), std::string::npos);
  for (const char* remote : {"src=\"http", "href=\"http", "url(http", "@import"})
    EXPECT_EQ(page.find(remote), std::string::npos) << remote;
}

TEST(unit, report_of_an_empty_run) {
  const test::TemporaryFolder folder;
  write_report(folder.path() + "/");
  EXPECT_NE(test::read_bytes(folder.file("report.html")).find("<title>formwork-"),
            std::string::npos);
  test::expect_error([&] { write_report(folder.file("none")); }, Fault::request,
                     {"none", "no such folder"});
}

TEST(unit, report_thins_without_losing_spikes) {
  std::vector<Value> lines;
  for (int64_t step = 1; step <= 20'000; ++step) lines.push_back(line_of(step));
  const std::vector<Value> thin = thin_metrics(lines, 1000);
  EXPECT_LE(thin.size(), 1202u);  // 1000, the 200 evaluations and the ends
  EXPECT_GE(thin.size(), 900u);
  int64_t evaluations = 0, spikes = 0;
  for (const Value& line : thin) {
    evaluations += line.find("validation_loss") != nullptr;
    spikes += *line.find("step")->get<int64_t>() == 1311;
  }
  EXPECT_EQ(evaluations, 200);
  EXPECT_EQ(spikes, 1);
  EXPECT_EQ(*thin.front().find("step")->get<int64_t>(), 1);
  EXPECT_EQ(*thin.back().find("step")->get<int64_t>(), 20'000);
  EXPECT_EQ(thin_metrics(lines, 20'000).size(), 20'000u);
}

}  // namespace
}  // namespace formwork

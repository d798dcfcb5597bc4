#include <cmath>

#include "support/refusal.h"
#include "support/temporary_folder.h"
#include "tasks/support.h"

namespace formwork::test {
namespace {

/// 200 hours: a = row, b = 1000 - 2 row.
std::string sample_table() {
  std::string text = "date,a,b\n";
  for (int64_t row = 0; row < 200; ++row)
    text += join_text("2016-07-0", 1 + row / 24, " ", row % 24 < 10 ? "0" : "", row % 24, ":00:00,",
                      row, ",", 1000 - 2 * row, "\n");
  return text;
}

Table options_for(const std::string& path) {
  return {{"path", path},          {"split", "fractions"},
          {"train_fraction", 0.5}, {"validation_fraction", 0.25},
          {"length", int64_t{10}}, {"horizon", int64_t{4}}};
}

TEST(unit, forecast_task_windows) {
  const TemporaryFolder folder;
  const std::string path = folder.file("t.csv");
  write_bytes(path, sample_table());
  const auto task = make_task("forecast", options_for(path));
  EXPECT_EQ(task->form().form, "encoder");
  EXPECT_EQ(task->form().output.horizon, 4);
  EXPECT_EQ(task->form().output.size, 2);
  EXPECT_EQ(task->training_items(), 100 - 10 - 4 + 1);
  EXPECT_EQ(task->validation_items(), 50 - 4 + 1);
  const Batch batch = task->validation_batch(0, 47);
  EXPECT_EQ(batch.input.input.sizes(), (std::vector<int64_t>{47, 10, 2}));
  EXPECT_EQ(batch.target.sizes(), (std::vector<int64_t>{47, 4, 2}));
  EXPECT_EQ(batch.input.timestamps.sizes(), (std::vector<int64_t>{47, 10, 4}));
  // Standardised on rows 0..99: mean 49.5, variance (100² - 1) / 12.
  const double deviation = std::sqrt((100.0 * 100.0 - 1) / 12);
  EXPECT_NEAR(batch.target[0][0][0].item<double>(), (100 - 49.5) / deviation, 1e-5);
  EXPECT_NEAR(batch.target[46][3][0].item<double>(), (149 - 49.5) / deviation, 1e-5);
  EXPECT_NEAR(batch.target[0][0][1].item<double>(), -(100 - 49.5) / deviation, 1e-5);
  EXPECT_NEAR(batch.input.input[0][9][0].item<double>(), (99 - 49.5) / deviation, 1e-5);
  EXPECT_NEAR(batch.input.timestamps[0][0][0].item<double>(), (90 % 24) / 23.0 - 0.5, 1e-6);
  // Training targets end before the first validation target.
  double latest = -10;
  for (int64_t i = 0; i < task->training_items(); ++i)
    latest = std::max(latest, task->training_batch(i, 1).target.select(2, 0).max().item<double>());
  EXPECT_NEAR(latest, (99 - 49.5) / deviation, 1e-5);
  expect_epochs(*task, [](const Batch& one) { return text_of(one.input.input); });
  expect_pure("forecast", options_for(path));
}

TEST(unit, forecast_task_columns_and_metrics) {
  const TemporaryFolder folder;
  const std::string path = folder.file("t.csv");
  write_bytes(path, sample_table());
  Table options = options_for(path);
  options.emplace_back("columns", List{Value("b")});
  options.emplace_back("horizons", List{Value(int64_t{2})});
  const auto task = make_task("forecast", options);
  const Batch batch = task->validation_batch(3, 2);
  EXPECT_EQ(batch.target.sizes(), (std::vector<int64_t>{2, 4, 1}));
  Tensor output = batch.target + 1;
  output.narrow(1, 2, 2) += 2;  // errors 1, 1, 3, 3
  const auto figures = task->metrics(task->metric_sums(output, batch));
  EXPECT_NEAR(figures.at("mse"), 5, 1e-5);
  EXPECT_NEAR(figures.at("mae"), 2, 1e-5);
  EXPECT_NEAR(figures.at("mse_2"), 1, 1e-5);
  EXPECT_NEAR(figures.at("mae_2"), 1, 1e-5);
  EXPECT_NEAR(task->loss(output, batch).sum.item<double>(), 40, 1e-3);
  EXPECT_EQ(task->loss(output, batch).count, 8);
  EXPECT_FALSE(task->more_is_better());
}

TEST(fault, forecast_task_files) {
  const TemporaryFolder folder;
  const std::string path = folder.file("t.csv");
  const auto make = [](const Table& options) { make_task("forecast", options); };
  expect_error([&] { make({}); }, Fault::request, {"task.path", "missing"});
  expect_error([&] { make({{"path", path}}); }, Fault::request, {path});
  write_bytes(path, sample_table());
  expect_error([&] { make({{"path", path}}); }, Fault::request, {"20 months", "fractions"});
  Table options = options_for(path);
  options.emplace_back("columns", List{Value("c")});
  expect_error([&] { make(options); }, Fault::request, {"task.columns", path, "'c'", "a, b"});
  options = options_for(path);
  options.back().second = Value(int64_t{60});
  expect_error([&] { make(options); }, Fault::request, {"task.horizon", path, "need 70"});
  options = options_for(path);
  options.emplace_back("horizons", List{Value(int64_t{5})});
  expect_error([&] { make(options); }, Fault::request, {"task.horizons", "at most"});
  options = options_for(path);
  options.emplace_back("date_column", "when");
  expect_error([&] { make(options); }, Fault::request, {path, "when"});
}

}  // namespace
}  // namespace formwork::test

#include <algorithm>

#include "data/calendar.h"
#include "data/table.h"
#include "tasks/order.h"
#include "tasks/task.h"

namespace formwork {
namespace {

struct ForecastOptions {
  std::string path;
  std::string date_column = "date";
  std::vector<std::string> columns;
  int64_t length = 96;
  int64_t horizon = 96;
  std::vector<int64_t> horizons;
  std::string split = "ett";
  double train_fraction = 0.7;
  double validation_fraction = 0.1;
  std::string validation_part = "validation";
  int64_t validation_windows = 0;
  std::string missing = "refuse";

  void describe(OptionSet& o) {
    o.add("path", path, "a CSV file with a header");
    o.add("date_column", date_column, "the column with dates; empty: there is none");
    o.add("columns", columns, "columns that are read and forecast; empty: all numeric ones");
    o.add("length", length, "time steps of every input", between(1, 1 << 24));
    o.add("horizon", horizon, "time steps that are forecast", between(1, 1 << 24));
    o.add("horizons", horizons,
          "errors over the first so many forecast steps are reported too, as mse_24 and mae_24",
          at_least(1));
    o.add("split", split,
          "ett: 12, 4 and 4 months of 30 days; fractions: by the two fractions, the rest is the "
          "test part",
          one_of({"ett", "fractions"}));
    o.add("train_fraction", train_fraction, "part of the rows for training", between(0, 1));
    o.add("validation_fraction", validation_fraction, "part of the rows for validation",
          between(0, 1));
    o.add("validation_part", validation_part, "what validation uses",
          one_of({"validation", "test"}));
    o.add("validation_windows", validation_windows,
          "windows that validation uses, spread evenly; 0: all", at_least(0));
    o.add("missing", missing, "what an empty cell means: an error, the value above it, or the mean",
          one_of({"refuse", "previous", "mean"}));
    o.require(
        "split", [this] { return split != "ett" || !date_column.empty(); },
        "found ett, which needs task.date_column to know the rows of a month; valid: "
        "fractions");
  }
};

Missing missing_of(const std::string& name) {
  if (name == "previous") return Missing::previous;
  return name == "mean" ? Missing::mean : Missing::refuse;
}

/// The table with the named columns only, in the named order.
NumberTable pick(const NumberTable& all, const std::vector<std::string>& names,
                 const std::string& path) {
  if (names.empty()) return all;
  NumberTable picked{names, {}, all.seconds};
  std::vector<int64_t> at;
  for (const std::string& name : names) {
    check(std::count(all.columns.begin(), all.columns.end(), name) > 0,
          "task.columns (" + path + ")", unknown_name("column", name, all.columns));
    at.push_back(all.column(name));
  }
  picked.values.reserve(static_cast<size_t>(all.rows()) * names.size());
  for (int64_t row = 0; row < all.rows(); ++row)
    for (const int64_t column : at) picked.values.push_back(all.at(row, column));
  return picked;
}

/// Forecasts of all columns: series [B,length,C] → [B,horizon,C], standardised with the mean and
/// deviation of the training part; timestamps [B,length,F] hold calendar features. Windows of
/// validation and test may look back into the part before, their targets never overlap it.
/// Protocol of Zhou et al. 2021 (Informer, ETT), arXiv 2012.07436.
class ForecastTask final : public Task {
 public:
  ForecastTask(const ForecastOptions& options, const TaskSite& site) : options_(options) {
    check(!options.path.empty(), "task.path",
          "is missing; valid: a CSV file with a header, such as data/ett/ETTh1.csv");
    TableOptions reading;
    reading.date_column = options.date_column;
    reading.missing = missing_of(options.missing);
    for (const int64_t h : options.horizons)
      check(h <= options.horizon, "task.horizons", "found ", h,
            ", but task.horizon = ", options.horizon, "; valid: at most that");
    const NumberTable table =
        pick(read_table(options.path, reading), options.columns, options.path);
    split(table);
    standardise(table);
    order_.emplace(training_items(), site.random.child("order"));
  }

  TaskForm form() const override {
    TaskForm form;
    form.input.kind = InputForm::Kind::series;
    form.input.channels = values_.size(1);
    form.input.length = options_.length;
    form.output = {OutputForm::Kind::values, values_.size(1), options_.horizon};
    form.form = "encoder";
    return form;
  }
  int64_t training_items() const override { return windows_in(train_); }
  int64_t validation_items() const override { return windows_; }
  std::string main_metric() const override { return "mse"; }
  std::string fingerprint() const override { return fingerprint_; }

  Batch training_batch(int64_t first, int64_t count) override {
    return pack(count, [&](int64_t i) { return train_.begin + order_->at(first + i); });
  }
  Batch validation_batch(int64_t first, int64_t count) override {
    check_items(first, count, windows_);
    return pack(count, [&](int64_t i) {
      return validation_.begin + spread(first + i, windows_, windows_in(validation_));
    });
  }

  MetricSums metric_sums(const Tensor& output, const Batch& batch) const override {
    MetricSums sums = Task::metric_sums(output, batch);
    for (const int64_t h : options_.horizons) {
      const Tensor error = (output.narrow(1, 0, h) - batch.target.narrow(1, 0, h)).to(at::kDouble);
      sums[join_text("squared_", h)] = error.square().sum().item<double>();
      sums[join_text("absolute_", h)] = error.abs().sum().item<double>();
      sums[join_text("count_", h)] = static_cast<double>(error.numel());
    }
    return sums;
  }
  std::map<std::string, double> metrics(const MetricSums& sums) const override {
    auto figures = Task::metrics(sums);
    for (const int64_t h : options_.horizons) {
      const double count = sums.at(join_text("count_", h));
      figures[join_text("mse_", h)] = sums.at(join_text("squared_", h)) / count;
      figures[join_text("mae_", h)] = sums.at(join_text("absolute_", h)) / count;
    }
    return figures;
  }

 private:
  int64_t windows_in(Interval rows) const {
    return std::max<int64_t>(rows.size() - options_.length - options_.horizon + 1, 0);
  }

  void split(const NumberTable& table) {
    const TableSplit parts = options_.split == "ett"
                                 ? split_ett(table.rows(), table.step_seconds(), options_.length)
                                 : split_fractions(table.rows(), options_.train_fraction,
                                                   options_.validation_fraction, options_.length);
    train_ = parts.train;
    validation_ = options_.validation_part == "test" ? parts.test : parts.validation;
    const auto need = [&](Interval rows, const std::string& name) {
      check(windows_in(rows) > 0, "task.horizon", "the ", name, " part of '", options_.path,
            "' has ", rows.size(), " rows, but task.length = ", options_.length,
            " and task.horizon = ", options_.horizon, " need ", options_.length + options_.horizon);
    };
    need(train_, "training");
    need(validation_, options_.validation_part);
    windows_ = windows_in(validation_);
    if (options_.validation_windows > 0) windows_ = std::min(windows_, options_.validation_windows);
  }

  void standardise(const NumberTable& table) {
    std::vector<double> values = table.values;
    fit_scaling(table, train_).apply(values);
    values_ = at::tensor(values, at::kDouble).view({table.rows(), table.width()}).to(at::kFloat);
    std::string names;
    for (const std::string& name : table.columns) names += name + ",";
    fingerprint_ = join_text("forecast rows=", table.rows(), " columns=", table.width(),
                             " hash=", hash_text(names));
    if (table.seconds.empty()) return;
    const bool minutes = table.step_seconds() % 3600 != 0;
    std::vector<float> features;
    for (const int64_t seconds : table.seconds) {
      const auto one = calendar_features(seconds, minutes);
      features.insert(features.end(), one.begin(), one.end());
    }
    calendar_ = at::tensor(features).view({table.rows(), -1});
  }

  template <class Start>
  Batch pack(int64_t count, Start start) const {
    std::vector<Tensor> inputs, targets, times;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = start(i);
      inputs.push_back(values_.narrow(0, row, options_.length));
      targets.push_back(values_.narrow(0, row + options_.length, options_.horizon));
      if (calendar_.defined()) times.push_back(calendar_.narrow(0, row, options_.length));
    }
    Batch batch;
    batch.input.input = at::stack(inputs);
    batch.target = at::stack(targets);
    if (calendar_.defined()) batch.input.timestamps = at::stack(times);
    batch.size = count;
    batch.tokens = count * options_.length;
    return batch;
  }

  ForecastOptions options_;
  Interval train_, validation_;
  int64_t windows_ = 0;
  Tensor values_;    // [rows,C]
  Tensor calendar_;  // [rows,F], undefined without dates
  std::optional<EpochOrder> order_;
  std::string fingerprint_;
};

const Register<Task, ForecastTask, ForecastOptions> forecast{
    "forecast", "the next steps of a table of numbers", cite("2012.07436"), specified_by("")};

}  // namespace
}  // namespace formwork

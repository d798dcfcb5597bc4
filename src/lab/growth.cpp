#include "lab/growth.h"

#include <c10/core/GradMode.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "lab/statistics.h"
#include "training/evaluation.h"
#include "training/recipe.h"

namespace formwork {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kLeastPasses = 3, kMostPasses = 200;
constexpr auto kLongEnough = std::chrono::milliseconds(150);

/// A model with the input to time it on.
struct Timed {
  std::shared_ptr<Model> model;
  Batch batch;
};

Timed build(Value table, const std::string& source, const std::string& key, int64_t size) {
  set_by_path(table, key, Value(size));
  Recipe recipe = Recipe::from(table, source);
  const std::shared_ptr<Task> task = recipe.make_task();
  Timed timed;
  timed.model =
      std::make_shared<Model>(recipe.model, task->form(), static_cast<uint64_t>(recipe.train.seed));
  timed.model->eval();
  timed.batch = task->validation_batch(0, 1);
  match_model(timed.batch, *timed.model);
  return timed;
}

/// The least time: what the work itself takes, without what else the machine did meanwhile.
double least_milliseconds(const Timed& timed) {
  double least = INFINITY;
  const auto begun = Clock::now();
  for (int pass = 0; pass < kMostPasses; ++pass) {
    if (pass >= kLeastPasses && Clock::now() - begun > kLongEnough) break;
    const auto start = Clock::now();
    timed.model->forward(timed.batch.input);
    const std::chrono::duration<double, std::milli> time = Clock::now() - start;
    least = std::min(least, time.count());
  }
  return least;
}

}  // namespace

Growth measure_growth(const Value& table, const std::string& source, const std::string& key,
                      const std::vector<int64_t>& sizes, int64_t repetitions) {
  const c10::NoGradGuard no_grad;
  Growth growth;
  growth.sizes = sizes;
  std::vector<Timed> models;
  std::vector<double> logs;
  for (const int64_t size : sizes) {
    models.push_back(build(table, source, key, size));
    least_milliseconds(models.back());  // the first passes choose kernels and take memory
    logs.push_back(std::log(static_cast<double>(size)));
  }
  for (int64_t repetition = 0; repetition < repetitions; ++repetition) {
    std::vector<double> times, log_times;
    for (const Timed& timed : models) {
      times.push_back(least_milliseconds(timed));
      log_times.push_back(std::log(times.back()));
    }
    growth.exponents.push_back(fit_line(logs, log_times).slope);
    growth.milliseconds.push_back(std::move(times));
  }
  return growth;
}

std::vector<std::vector<double>> measure_ratios(const Value& ours, const Value& theirs,
                                                const std::string& source, const std::string& key,
                                                const std::vector<int64_t>& sizes,
                                                int64_t repetitions) {
  const c10::NoGradGuard no_grad;
  std::vector<std::vector<double>> ratios;
  for (const int64_t size : sizes) {
    const Timed first = build(ours, source, key, size), second = build(theirs, source, key, size);
    least_milliseconds(first);
    least_milliseconds(second);
    std::vector<double>& list = ratios.emplace_back();
    for (int64_t repetition = 0; repetition < repetitions; ++repetition) {
      const double time = least_milliseconds(first);
      list.push_back(time / least_milliseconds(second));
    }
  }
  return ratios;
}

}  // namespace formwork

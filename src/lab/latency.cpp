#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <chrono>

#include "formats/atomic_file.h"
#include "formats/json.h"
#include "lab/figures.h"
#include "lab/statistics.h"
#include "lab/summary.h"
#include "training/evaluation.h"
#include "training/precision.h"
#include "training/recipe.h"

namespace formwork {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kWarmUp = 5, kLeastRounds = 10, kMostRounds = 100;
constexpr auto kEnough = std::chrono::seconds(1);

double milliseconds_of_pass(Model& model, Task& task, const Recipe& recipe, int64_t size) {
  Batch batch = task.validation_batch(0, std::min(size, task.validation_items()));
  match_model(batch, model);
  const PrecisionGuard precision(recipe.train.precision);
  std::vector<double> times;
  // The first passes choose kernels, take memory and start threads.
  for (int round = 0; round < kWarmUp; ++round) model.forward(batch.input);
  const auto begun = Clock::now();
  for (int round = 0; round < kMostRounds; ++round) {
    if (round >= kLeastRounds && Clock::now() - begun > kEnough) break;
    const auto start = Clock::now();
    model.forward(batch.input);
    const std::chrono::duration<double, std::milli> time = Clock::now() - start;
    times.push_back(time.count());
  }
  return median_of(times);
}

Value latency_of(const Variant& variant) {
  Value latency{Table{}};
  latency["batch_1"] = Value();
  latency["training_batch"] = Value();
  try {
    Recipe recipe = Recipe::from(parse_toml(variant.recipe, variant.name), variant.name);
    const std::shared_ptr<Task> task = recipe.make_task();
    Model model(recipe.model, task->form(), static_cast<uint64_t>(recipe.train.seed));
    if (recipe.train.precision == "float64") model.to(at::kDouble);
    model.eval();
    const c10::NoGradGuard no_grad;
    latency["batch_1"] = milliseconds_of_pass(model, *task, recipe, 1);
    latency["training_batch"] = milliseconds_of_pass(model, *task, recipe, recipe.train.batch);
  } catch (const std::exception&) {
    // Its training has told why it cannot be; the others are measured all the same.
  }
  return latency;
}

}  // namespace

void measure_latencies(const ComparisonFolder& folder) {
  const std::string file = folder.file("latency.json");
  Value latencies = read_json_if_there(file);
  bool measured = false;
  for (const Variant& variant : folder.plan().variants) {
    if (latencies.find(variant.folder)) continue;
    latencies[variant.folder] = latency_of(variant);
    measured = true;
  }
  if (measured) write_file_atomically(file, write_json(latencies, 2) + "\n");
}

}  // namespace formwork

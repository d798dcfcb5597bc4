#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>

#include "cli/bench.h"
#include "cli/console.h"
#include "cli/verbs.h"
#include "core/memory.h"

namespace formwork {
namespace {

struct BenchRequest {
  std::string recipe;
  std::vector<std::string> overrides;
  int64_t steps = 10, warm_up = 2;
  bool json = false;
};

/// Times whole training steps: batch, forward, backward, clipping, optimizer.
void bench_train(const BenchRequest& request) {
  Recipe recipe = Recipe::read(request.recipe, request.overrides);
  use_threads(recipe.train.threads);
  const std::unique_ptr<Processes> processes = Processes::from_environment();
  Trainer trainer(recipe, *processes);
  for (int64_t i = 0; i < request.warm_up; ++i) trainer.step();
  std::vector<double> rates;
  double flops = 0.0, seconds = 0.0;
  for (int64_t i = 0; i < request.steps; ++i) {
    const Progress before = trainer.progress();
    trainer.step();
    const Progress& after = trainer.progress();
    rates.push_back((after.tokens - before.tokens) / (after.seconds - before.seconds));
    flops += after.flops - before.flops;
    seconds += after.seconds - before.seconds;
  }
  std::sort(rates.begin(), rates.end());
  const double best = rates.back();
  const double median = (rates[rates.size() / 2] + rates[(rates.size() - 1) / 2]) / 2.0;
  if (request.json) {
    Value table{Table{}};
    table["recipe"] = Value(request.recipe);
    table["parameters"] = Value(trainer.model().parameter_count());
    table["steps"] = Value(request.steps);
    table["tokens_per_second"]["best"] = Value(best);
    table["tokens_per_second"]["median"] = Value(median);
    table["tokens_per_second"]["worst"] = Value(rates.front());
    table["gflop_per_second"] = Value(flops / seconds / 1e9);
    table["peak_megabytes"] = Value(static_cast<double>(peak_resident_memory()) / 1e6);
    print_json(table);
    return;
  }
  std::printf("%s: %s parameters, %lld steps\n", request.recipe.c_str(),
              count_text(static_cast<double>(trainer.model().parameter_count())).c_str(),
              static_cast<long long>(request.steps));
  std::printf("  tokens/s  best %.0f  median %.0f  worst %.0f\n", best, median, rates.front());
  std::printf("  GFLOP/s   %.1f (matrix products and attention)\n", flops / seconds / 1e9);
  std::printf("  memory    %.0f MB at most, of the whole process\n",
              static_cast<double>(peak_resident_memory()) / 1e6);
}

}  // namespace

void add_bench_limits(CLI::App& verb, BenchLimits& limits) {
  verb.add_option("--rounds", limits.rounds, "times that each is measured, in turns")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30));
  verb.add_option("--threads", limits.threads, "threads; 0 = PyTorch's choice")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20));
  verb.add_flag("--json", limits.json, "figures as JSON");
}

void add_bench_verb(CLI::App& app) {
  const auto request = std::make_shared<BenchRequest>();
  CLI::App* verb = app.add_subcommand("bench", "measure speed on this machine");
  verb->require_subcommand(1);
  verb->footer("Example:\n  formwork bench train --recipe recipes/bench-listops.toml --json");
  CLI::App* train = verb->add_subcommand("train", "tokens a second of training a recipe");
  train->add_option("--recipe", request->recipe, "a TOML file")->required();
  train->add_option("--set", request->overrides, "KEY=VALUE, changes one key; may be repeated")
      ->take_all()
      ->allow_extra_args(false);
  train->add_option("--steps", request->steps, "steps timed")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 53));
  train->add_option("--warm-up", request->warm_up, "steps before, not timed")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 53));
  train->add_flag("--json", request->json, "figures as JSON");
  train->footer("Example:\n  formwork bench train --recipe recipes/shakespeare.toml --json");
  train->callback([request] { bench_train(*request); });
  add_bench_norms(*verb);
  add_bench_attention(*verb);
  add_bench_matmul(*verb);
  add_bench_mixers(*verb);
  add_bench_conditioning(*verb);
  add_bench_decode(*verb);
  add_bench_infer(*verb);
  add_bench_ops(*verb);
}

}  // namespace formwork

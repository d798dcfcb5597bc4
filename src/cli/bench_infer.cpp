#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "cli/bench.h"
#include "cli/console.h"
#include "cli/product_speed.h"
#include "cli/timing.h"
#include "cli/weights.h"
#include "formats/tensors.h"
#include "training/conversion.h"
#include "training/flops.h"

namespace formwork {
namespace {

constexpr const char* kBertRecipe = "recipes/bench-bert.toml";
constexpr int64_t kBertVocabulary = 30522;

struct InferRequest {
  std::string recipe, save;
  std::vector<std::string> overrides, shapes{"1x128", "8x128", "1x512"};
  std::vector<std::string> types{"float32", "bfloat16"};
  int64_t vocabulary = 0;
  BenchLimits limits;
};

/// How many items a pass takes and how many tokens each has; 0 tokens: as the recipe's have.
struct PassSize {
  int64_t batch = 0, tokens = 0;
};

PassSize pass_size(const std::string& text) {
  long long batch = 0, tokens = 0;
  char rest = 0;
  const int found = std::sscanf(text.c_str(), "%lldx%lld%c", &batch, &tokens, &rest);
  const bool whole = found == 1 && text.find_first_not_of("0123456789") == std::string::npos;
  check((found == 2 || whole) && batch > 0 && (whole || tokens > 0) && batch < (1 << 20) &&
            tokens < (1 << 24),
        "--shape", "found '", text,
        "'; valid: BATCHxTOKENS, such as 8x128, or BATCH alone for inputs as the recipe has them");
  return {batch, tokens};
}

/// Passes of one shape by one model: their input and times in milliseconds.
struct Passes {
  std::string shape, type, held;
  PassSize size;
  std::shared_ptr<Model> model;
  ModelInput input;
  double gigaflops = 0.0;
  std::vector<double> times;

  void run() {
    const double start = milliseconds();
    model->forward(input);
    times.push_back(milliseconds() - start);
  }
  double rate() const { return gigaflops / least(times) * 1e3; }
};

ModelInput input_of(const Model& model, const PassSize& size, const std::string& shape) {
  ModelInput input = random_input(model, size.batch, 1);
  if (size.tokens == 0) return input;
  const TaskForm& task = model.task();
  check(task.input.kind == InputForm::Kind::tokens, "--shape", "found '", shape,
        "', but the recipe's task takes no tokens; valid: BATCH alone");
  const int64_t most = input.input.size(1);
  check(size.tokens <= most, "--shape", "found '", shape, "', but inputs of the recipe have ", most,
        " tokens; valid: at most that, or --set task.length=", size.tokens);
  input.input = input.input.narrow(1, 0, size.tokens);
  return input;
}

std::shared_ptr<Model> model_of(const InferRequest& request) {
  const bool usual = request.recipe.empty();
  Recipe recipe = Recipe::read(usual ? kBertRecipe : request.recipe, request.overrides);
  TaskForm task = recipe.make_task()->form();
  const int64_t vocabulary = request.vocabulary > 0 ? request.vocabulary
                             : usual                ? kBertVocabulary
                                                    : 0;
  if (vocabulary > 0) {
    check(task.input.kind == InputForm::Kind::tokens, "--vocabulary", "found ", vocabulary,
          ", but the recipe's task takes no tokens; valid: 0");
    task.input.vocabulary = vocabulary;
    if (task.output.kind == OutputForm::Kind::tokens) task.output.size = vocabulary;
  }
  auto model =
      std::make_shared<Model>(recipe.model, task, static_cast<uint64_t>(recipe.train.seed));
  model->eval();
  return model;
}

double gigaflops_of(Model& model, const ModelInput& input) {
  const FlopCounter counter;
  model.forward(input);
  return counter.count() / 1e9;
}

/// The weights, and of every shape an input with its output: what a peer is checked with.
void save_examples(const std::string& folder, Model& model, const std::vector<Passes>& passes) {
  expect_new(folder);
  std::filesystem::create_directories(folder);
  save_model_folder(folder, model, model.named_tensors());
  for (const Passes& each : passes)
    save_tensors((std::filesystem::path(folder) / (each.shape + ".safetensors")).string(),
                 {{"input", each.input.input}, {"output", model.forward(each.input).y}});
}

/// A model for each type, and its passes; each has run twice.
std::vector<Passes> prepare(const InferRequest& request) {
  std::vector<Passes> all;
  for (const std::string& type : request.types) {
    std::vector<Passes> of_type;
    const std::shared_ptr<Model> model = model_of(request);
    for (const std::string& shape : request.shapes) {
      Passes passes{shape, type, "", pass_size(shape), model, {}, 0.0, {}};
      passes.input = input_of(*model, passes.size, shape);
      passes.gigaflops = gigaflops_of(*model, passes.input);
      of_type.push_back(std::move(passes));
    }
    if (!request.save.empty() && all.empty()) save_examples(request.save, *model, of_type);
    const std::string held = hold_for_passes(*model, type);
    for (Passes& passes : of_type) {
      passes.held = held;
      if (passes.input.input.is_floating_point())
        passes.input.input = passes.input.input.to(model->type());
      for (int i = 0; i < 2; ++i) passes.run();
      passes.times.clear();
      all.push_back(std::move(passes));
    }
  }
  return all;
}

Value to_value(const std::vector<Passes>& all, const InferRequest& request, int64_t parameters,
               double product) {
  Value table{Table{}};
  table["recipe"] = Value(request.recipe.empty() ? kBertRecipe : request.recipe);
  table["parameters"] = Value(parameters);
  table["rounds"] = Value(request.limits.rounds);
  table["threads"] = Value(int64_t{at::get_num_threads()});
  table["product_gflop_per_second"] = Value(product);
  List entries;
  for (const Passes& passes : all) {
    Value entry{Table{}};
    entry["shape"] = Value(passes.shape);
    entry["type"] = Value(passes.type);
    entry["held"] = Value(passes.held);
    entry["ms"] = times_table(passes.times);
    entry["gflop"] = Value(passes.gigaflops);
    entry["gflop_per_second"] = Value(passes.rate());
    entry["share_of_product"] = Value(passes.rate() / product);
    entries.push_back(std::move(entry));
  }
  table["passes"] = Value(std::move(entries));
  return table;
}

void print(const std::vector<Passes>& all, const InferRequest& request, int64_t parameters,
           double product) {
  std::printf(
      "forward passes of %s, %s parameters, %d threads, %lld rounds; milliseconds\n%-10s %-9s %8s "
      "%8s %7s %8s %11s   %s\n",
      request.recipe.empty() ? kBertRecipe : request.recipe.c_str(),
      count_text(static_cast<double>(parameters)).c_str(), at::get_num_threads(),
      static_cast<long long>(request.limits.rounds), "shape", "type", "median", "least", "spread",
      "GFLOP/s", "of product", "held as");
  for (const Passes& passes : all)
    std::printf("%-10s %-9s %8.1f %8.1f %5.0f %% %8.0f %9.0f %%   %s\n", passes.shape.c_str(),
                passes.type.c_str(), median(passes.times), least(passes.times),
                100.0 * spread(passes.times), passes.rate(), 100.0 * passes.rate() / product,
                passes.held.c_str());
  std::printf("a large float32 product: %.0f GFLOP/s. Rates are of the least time.\n", product);
}

void bench_infer(const InferRequest& request) {
  use_threads(request.limits.threads);
  for (const std::string& shape : request.shapes) pass_size(shape);
  const c10::NoGradGuard no_grad;
  const int64_t parameters = model_of(request)->parameter_count();  // packed weights are none
  std::vector<Passes> all = prepare(request);
  ProductMeter meter;
  double product = 0.0;
  for (int64_t round = 0; round < request.limits.rounds; ++round) {
    product = meter.measure();
    for (Passes& passes : all) passes.run();
  }
  if (request.limits.json)
    print_json(to_value(all, request, parameters, product));
  else
    print(all, request, parameters, product);
}

}  // namespace

void add_bench_infer(CLI::App& bench) {
  const auto request = std::make_shared<InferRequest>();
  CLI::App* verb = bench.add_subcommand(
      "infer", "forward passes without gradients, beside a large product of matrices");
  verb->add_option(
      "--recipe", request->recipe,
      join_text("a TOML file; ", kBertRecipe, " with ", kBertVocabulary, " token ids if none"));
  verb->add_option("--set", request->overrides, "KEY=VALUE, changes one key; may be repeated")
      ->take_all()
      ->allow_extra_args(false);
  verb->add_option("--shape", request->shapes,
                   "BATCHxTOKENS, or BATCH alone for inputs as the recipe has them; with commas")
      ->delimiter(',');
  verb->add_option("--type", request->types, "number types, with commas")
      ->delimiter(',')
      ->check(CLI::IsMember(weight_forms()));
  verb->add_option("--vocabulary", request->vocabulary, "token ids; 0 = as the recipe's task has")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30));
  verb->add_option("--save", request->save,
                   "a new folder for the float32 model and, of each shape, an input and output");
  add_bench_limits(*verb, request->limits);
  verb->footer("Example:\n  formwork bench infer --shape 1x128,1x512 --type float32 --json");
  verb->callback([request] { bench_infer(*request); });
}

}  // namespace formwork

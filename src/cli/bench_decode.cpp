#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "cli/bench.h"
#include "cli/console.h"
#include "cli/memory_speed.h"
#include "cli/timing.h"
#include "cli/weights.h"

namespace formwork {
namespace {

struct DecodeRequest {
  int64_t width = 768, depth = 12, heads = 12, vocabulary = 50257;
  int64_t context = 128, tokens = 64;
  std::vector<std::string> weights = weight_forms();
  BenchLimits limits{5};
};

/// One model with its weights in one form, and what its rounds took.
struct DecodeTimes {
  std::string weights;
  std::shared_ptr<Model> model;
  int64_t parameters = 0;
  std::vector<double> prompt_ms, token_ms;  // of the whole prompt, and of a token of the rest
};

/// A decoder of GPT-2's kind: Pre-LN, learned positions, biases, tanh GELU, a tied head.
/// Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
std::shared_ptr<Model> decoder(const DecodeRequest& request) {
  TaskForm task;
  task.input.vocabulary = task.output.size = request.vocabulary;
  task.input.length = request.context + request.tokens;
  ModelOptions options;
  options.width = request.width;
  options.depth = request.depth;
  options.heads = request.heads;
  options.position.select("learned", "model.position");
  options.every_layer.norm.select("layer_norm", "model.norm");
  options.every_layer.mixer.set({{"bias", Value(true)}});
  options.every_layer.channel.set({{"act", Value("gelu_tanh")}});
  options.head.tied = true;
  options.settle(Value{Table{}}, task);
  validate(options, task);
  auto model = std::make_shared<Model>(options, task, 1);
  model->eval();
  return model;
}

Tensor prompt_of(const DecodeRequest& request) {
  return at::randint(request.vocabulary, {1, request.context}, generator_of(RandomStream(1)),
                     at::kLong);
}

/// One generation: the prompt, then token by token the likeliest.
void decode_once(DecodeTimes& subject, const DecodeRequest& request, const Tensor& prompt) {
  ModelState state = subject.model->make_state(1, request.context + request.tokens);
  const double start = milliseconds();
  Tensor next = subject.model->next_logits(prompt, state).argmax(-1, true);
  const double read = milliseconds();
  for (int64_t i = 0; i < request.tokens; ++i)
    next = subject.model->next_logits(next, state).argmax(-1, true);
  subject.prompt_ms.push_back(read - start);
  subject.token_ms.push_back((milliseconds() - read) / static_cast<double>(request.tokens));
}

std::vector<DecodeTimes> measure(const DecodeRequest& request, MemorySpeed& speed) {
  const c10::NoGradGuard no_grad;
  const Tensor prompt = prompt_of(request);
  std::vector<DecodeTimes> all;
  for (const std::string& form : request.weights) {
    DecodeTimes subject{form, decoder(request), 0, {}, {}};
    subject.parameters = subject.model->parameter_count();
    hold_weights(*subject.model, form);
    DecodeTimes warm_up = subject;
    decode_once(warm_up, request, prompt);
    all.push_back(std::move(subject));
  }
  MemoryMeter meter;
  for (int64_t round = 0; round < request.limits.rounds; ++round) {
    speed = meter.measure();
    for (DecodeTimes& subject : all) decode_once(subject, request, prompt);
  }
  return all;
}

double best_rate(const DecodeTimes& subject) {
  return 1e3 / least(subject.token_ms);
}
double bytes_a_second(const DecodeTimes& subject) {
  return best_rate(subject) * static_cast<double>(subject.model->weight_bytes());
}

Value to_value(const DecodeTimes& subject, const MemorySpeed& speed) {
  Value entry{Table{}};
  entry["weights"] = Value(subject.weights);
  entry["parameters"] = Value(subject.parameters);
  entry["tokens_per_second"]["median"] = Value(1e3 / median(subject.token_ms));
  entry["tokens_per_second"]["best"] = Value(best_rate(subject));
  entry["prompt_ms"]["median"] = Value(median(subject.prompt_ms));
  entry["prompt_ms"]["least"] = Value(least(subject.prompt_ms));
  entry["weight_bytes"] = Value(subject.model->weight_bytes());
  entry["gb_per_second"] = Value(bytes_a_second(subject) / 1e9);
  entry["share_of_read"] = Value(bytes_a_second(subject) / speed.read);
  return entry;
}

Value to_value(const std::vector<DecodeTimes>& all, const MemorySpeed& speed,
               const DecodeRequest& request) {
  Value table{Table{}};
  table["width"] = Value(request.width);
  table["depth"] = Value(request.depth);
  table["heads"] = Value(request.heads);
  table["vocabulary"] = Value(request.vocabulary);
  table["context"] = Value(request.context);
  table["tokens"] = Value(request.tokens);
  table["rounds"] = Value(request.limits.rounds);
  table["threads"] = Value(int64_t{at::get_num_threads()});
  table["memory"]["read_gb_per_second"] = Value(speed.read / 1e9);
  table["memory"]["triad_gb_per_second"] = Value(speed.triad / 1e9);
  List entries;
  for (const DecodeTimes& subject : all) entries.push_back(to_value(subject, speed));
  table["decodings"] = Value(std::move(entries));
  return table;
}

void print(const std::vector<DecodeTimes>& all, const MemorySpeed& speed,
           const DecodeRequest& request) {
  std::printf(
      "decoding at batch 1, V=%lld D=%lld L=%lld H=%lld, %lld tokens after %lld, %d threads, %lld "
      "rounds\n%-10s %13s %9s %15s %14s %7s %14s\n",
      static_cast<long long>(request.vocabulary), static_cast<long long>(request.width),
      static_cast<long long>(request.depth), static_cast<long long>(request.heads),
      static_cast<long long>(request.tokens), static_cast<long long>(request.context),
      at::get_num_threads(), static_cast<long long>(request.limits.rounds), "weights",
      "tokens/s median", "best", "prompt, least ms", "MB a token", "GB/s", "of the reading");
  for (const DecodeTimes& subject : all)
    std::printf("%-10s %15.1f %9.1f %16.1f %13.1f %7.1f %12.0f %%\n", subject.weights.c_str(),
                1e3 / median(subject.token_ms), best_rate(subject), least(subject.prompt_ms),
                static_cast<double>(subject.model->weight_bytes()) / 1e6,
                bytes_a_second(subject) / 1e9, 100.0 * bytes_a_second(subject) / speed.read);
  std::printf(
      "memory: reading %.1f GB/s, triad a = b + s c %.1f GB/s. MB a token: weights that a token "
      "reads; GB/s and\nthe share are of the best round.\n",
      speed.read / 1e9, speed.triad / 1e9);
}

void bench_decode(const DecodeRequest& request) {
  use_threads(request.limits.threads);
  check(request.width % request.heads == 0, "--heads", "found ", request.heads,
        ", which does not divide --width = ", request.width, "; valid: a divisor of it");
  MemorySpeed speed;
  const std::vector<DecodeTimes> all = measure(request, speed);
  if (request.limits.json)
    print_json(to_value(all, speed, request));
  else
    print(all, speed, request);
}

}  // namespace

void add_bench_decode(CLI::App& bench) {
  const auto request = std::make_shared<DecodeRequest>();
  CLI::App* verb = bench.add_subcommand(
      "decode", "tokens a second of generating, with weights in each form, beside memory's speed");
  const CLI::Range size(int64_t{1}, int64_t{1} << 30);
  verb->add_option("--width", request->width, "channels")->check(size);
  verb->add_option("--depth", request->depth, "layers")->check(size);
  verb->add_option("--heads", request->heads, "heads")->check(size);
  verb->add_option("--vocabulary", request->vocabulary, "tokens that there are")->check(size);
  verb->add_option("--context", request->context, "tokens of the prompt")->check(size);
  verb->add_option("--tokens", request->tokens, "tokens made and timed")->check(size);
  verb->add_option("--weights", request->weights, "forms, with commas; all three if none")
      ->delimiter(',')
      ->check(CLI::IsMember(weight_forms()));
  add_bench_limits(*verb, request->limits);
  verb->footer("Example:\n  formwork bench decode --weights int8,float32 --context 512");
  verb->callback([request] { bench_decode(*request); });
}

}  // namespace formwork

#include <ATen/Parallel.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "cli/bench.h"
#include "cli/console.h"
#include "cli/timing.h"
#include "methods/conditioning/conditioning.h"

namespace formwork {
namespace {

struct ConditioningRequest {
  int64_t batch = 16, tokens = 64, width = 256;
  BenchLimits limits{20};
  std::vector<std::string> only, overrides;
};

/// One conditioning with its times in milliseconds, or the reason why there are none.
struct ConditioningTimes {
  std::string name, omitted;
  std::shared_ptr<Conditioning> method;
  std::vector<double> times;
};

double pass_milliseconds(Conditioning& method, const Tensor& x, const Tensor& gradient) {
  Stream stream;
  const double start = milliseconds();
  method.forward(x, stream).backward(gradient);
  const double spent = milliseconds() - start;
  x.mutable_grad().reset();
  for (const Parameter& parameter : method.parameters()) parameter.tensor.mutable_grad().reset();
  return spent;
}

Choice<Conditioning> choice_of(const std::string& name, const ConditioningRequest& request) {
  Choice<Conditioning> choice(name);
  Value options{Table{}};
  for (const std::string& assignment : request.overrides) set_by_path(options, assignment);
  choice.set(*options.get<Table>());
  return choice;
}

/// The methods that were asked for, built and warmed up.
std::vector<ConditioningTimes> prepare(const ConditioningRequest& request, const Tensor& x,
                                       const Tensor& gradient) {
  check(request.overrides.empty() || request.only.size() == 1, "--set",
        "found without exactly one --only; valid: the options of one conditioning");
  const Registry<Conditioning>& registry = Registry<Conditioning>::instance();
  for (const std::string& name : request.only) registry.find(name, "--only");
  std::vector<ConditioningTimes> all;
  for (const std::string& name : request.only.empty() ? registry.names() : request.only) {
    const Choice<Conditioning> choice = choice_of(name, request);
    ConditioningTimes subject{name, {}, {}, {}};
    try {
      ConditioningSite site;
      static_cast<Site&>(site) = plain_site(request.width);
      site.length = request.tokens;
      subject.method = choice.make(site);
      pass_milliseconds(*subject.method, x, gradient);
    } catch (const Error& error) {
      subject.omitted = error.what();
    }
    all.push_back(std::move(subject));
  }
  return all;
}

/// Every conditioning once a round, so that all meet the same disturbances of the machine.
std::vector<ConditioningTimes> measure(const ConditioningRequest& request) {
  const RandomStream random(1);
  const auto draw = [&](const char* name) {
    return normal_tensor({request.batch, request.tokens, request.width}, 1.0, random.child(name));
  };
  const Tensor x = draw("x").requires_grad_(), gradient = draw("gradient");
  std::vector<ConditioningTimes> all = prepare(request, x, gradient);
  for (int64_t round = 0; round < request.limits.rounds; ++round)
    for (ConditioningTimes& subject : all)
      if (subject.omitted.empty())
        subject.times.push_back(pass_milliseconds(*subject.method, x, gradient));
  return all;
}

Value to_value(const std::vector<ConditioningTimes>& all, const ConditioningRequest& request) {
  Value table{Table{}};
  table["batch"] = Value(request.batch);
  table["tokens"] = Value(request.tokens);
  table["width"] = Value(request.width);
  table["rounds"] = Value(request.limits.rounds);
  table["threads"] = Value(int64_t{at::get_num_threads()});
  List entries;
  for (const ConditioningTimes& subject : all) {
    Value entry{Table{}};
    entry["conditioning"] = Value(subject.name);
    if (subject.omitted.empty()) {
      entry["parameters"] = Value(subject.method->parameter_count());
      entry["ms"]["median"] = Value(median(subject.times));
      entry["ms"]["least"] = Value(least(subject.times));
      entry["ms"]["spread"] = Value(spread(subject.times));
    } else {
      entry["omitted"] = Value(subject.omitted);
    }
    entries.push_back(std::move(entry));
  }
  table["conditionings"] = Value(std::move(entries));
  return table;
}

void print(const std::vector<ConditioningTimes>& all, const ConditioningRequest& request) {
  std::printf(
      "conditionings in training (forward and backward), x [%lld, %lld, %lld] float32, %d threads, "
      "%lld rounds\n%-28s %11s %8s %10s\n",
      static_cast<long long>(request.batch), static_cast<long long>(request.tokens),
      static_cast<long long>(request.width), at::get_num_threads(),
      static_cast<long long>(request.limits.rounds), "", "median, ms", "spread", "least, ms");
  for (const ConditioningTimes& subject : all)
    if (subject.omitted.empty())
      std::printf("%-28s %11.3f %6.0f %% %10.3f\n", subject.name.c_str(), median(subject.times),
                  100.0 * spread(subject.times), least(subject.times));
    else
      std::printf("%-28s left out: %s\n", subject.name.c_str(), subject.omitted.c_str());
}

void bench_conditioning(const ConditioningRequest& request) {
  use_threads(request.limits.threads);
  const std::vector<ConditioningTimes> all = measure(request);
  if (request.limits.json)
    print_json(to_value(all, request));
  else
    print(all, request);
}

}  // namespace

void add_bench_conditioning(CLI::App& bench) {
  const auto request = std::make_shared<ConditioningRequest>();
  CLI::App* verb = bench.add_subcommand(
      "conditioning", "every conditioning's forward and backward pass on tokens made of numbers");
  const CLI::Range size(int64_t{1}, int64_t{1} << 30);
  verb->add_option("--batch", request->batch, "sequences")->check(size);
  verb->add_option("--tokens", request->tokens, "tokens of each")->check(size);
  verb->add_option("--width", request->width, "channels")->check(size);
  verb->add_option("--only", request->only, "this conditioning; may be repeated")
      ->take_all()
      ->allow_extra_args(false);
  verb->add_option("--set", request->overrides,
                   "KEY=VALUE, changes one option of the one conditioning; may be repeated")
      ->take_all()
      ->allow_extra_args(false);
  add_bench_limits(*verb, request->limits);
  verb->footer("Example:\n  formwork bench conditioning --tokens 197 --width 192");
  verb->callback([request] { bench_conditioning(*request); });
}

}  // namespace formwork

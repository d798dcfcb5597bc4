#include <CLI/CLI.hpp>
#include <cstdio>

#include "cli/bench.h"
#include "cli/console.h"
#include "cli/timing.h"
#include "methods/norm/norm.h"

namespace formwork {
namespace {

struct NormsRequest {
  int64_t rows = 4096, width = 768;
  BenchLimits limits{30};
};

/// One norm and its times in milliseconds, a round each.
struct Subject {
  std::string name;
  std::function<Tensor(const Tensor&)> forward;
  std::vector<Tensor> trained;
  std::vector<double> forwards, totals;
};

/// PyTorch's layer_norm first: what the others are compared with.
std::vector<Subject> subjects(const NormsRequest& request) {
  std::vector<Subject> all;
  const Tensor weight = at::ones({request.width}).requires_grad_(true);
  const Tensor bias = at::zeros({request.width}).requires_grad_(true);
  all.push_back({"at::layer_norm",
                 [weight, bias](const Tensor& x) {
                   return at::layer_norm(x, weight.sizes(), weight, bias, 1e-5);
                 },
                 {weight, bias},
                 {},
                 {}});
  for (const std::string& name : Registry<Norm>::instance().names()) {
    NormSite site;
    site.width = request.width;
    const std::shared_ptr<Norm> norm = Choice<Norm>(name).make(site);
    // In the middle of a training, where what is replaced gradually costs most.
    norm->before_step({500, 0.4});
    Subject subject{name, [norm](const Tensor& x) { return norm->forward(x); }, {}, {}, {}};
    for (const Parameter& parameter : norm->parameters())
      subject.trained.push_back(parameter.tensor);
    all.push_back(std::move(subject));
  }
  return all;
}

void time_once(Subject& subject, const Tensor& x, const Tensor& gradient) {
  const double start = milliseconds();
  const Tensor y = subject.forward(x);
  const double middle = milliseconds();
  y.backward(gradient);
  const double end = milliseconds();
  subject.forwards.push_back(middle - start);
  subject.totals.push_back(end - start);
  x.mutable_grad().reset();
  for (const Tensor& tensor : subject.trained) tensor.mutable_grad().reset();
}

/// Every norm once a round, so that all meet the same disturbances of the machine.
std::vector<Subject> measure(const NormsRequest& request) {
  use_threads(request.limits.threads);
  std::vector<Subject> all = subjects(request);
  const RandomStream random(1);
  const Tensor x =
      normal_tensor({request.rows, request.width}, 1.0, random.child("x")).requires_grad_(true);
  const Tensor gradient = normal_tensor({request.rows, request.width}, 1.0, random.child("g"));
  for (int64_t round = -2; round < request.limits.rounds; ++round)
    for (Subject& subject : all) {
      time_once(subject, x, gradient);
      if (round >= 0) continue;  // warm-up
      subject.forwards.clear();
      subject.totals.clear();
    }
  return all;
}

Value to_value(const std::vector<Subject>& all, const NormsRequest& request) {
  Value table{Table{}};
  table["rows"] = Value(request.rows);
  table["width"] = Value(request.width);
  table["rounds"] = Value(request.limits.rounds);
  for (const Subject& subject : all) {
    Value& entry = table["norms"][subject.name];
    entry["forward_ms"]["least"] = Value(least(subject.forwards));
    entry["forward_ms"]["median"] = Value(median(subject.forwards));
    entry["forward_backward_ms"]["least"] = Value(least(subject.totals));
    entry["forward_backward_ms"]["median"] = Value(median(subject.totals));
    entry["ratio"]["least"] = Value(least(subject.totals) / least(all.front().totals));
    entry["ratio"]["median"] = Value(median(subject.totals) / median(all.front().totals));
  }
  return table;
}

void print_table(const std::vector<Subject>& all, const NormsRequest& request) {
  std::printf("norms in training, x [%lld, %lld] float32, %lld rounds; milliseconds\n",
              static_cast<long long>(request.rows), static_cast<long long>(request.width),
              static_cast<long long>(request.limits.rounds));
  std::printf("%-16s %17s %20s %22s\n", "", "forward", "forward + backward",
              "of layer_norm's total");
  std::printf("%-16s %8s %8s %11s %8s %13s %8s\n", "", "least", "median", "least", "median",
              "least", "median");
  for (const Subject& subject : all)
    std::printf("%-16s %8.2f %8.2f %11.2f %8.2f %13.2f %8.2f\n", subject.name.c_str(),
                least(subject.forwards), median(subject.forwards), least(subject.totals),
                median(subject.totals), least(subject.totals) / least(all.front().totals),
                median(subject.totals) / median(all.front().totals));
}

void bench_norms(const NormsRequest& request) {
  const std::vector<Subject> all = measure(request);
  if (request.limits.json)
    print_json(to_value(all, request));
  else
    print_table(all, request);
}

}  // namespace

void add_bench_norms(CLI::App& bench) {
  const auto request = std::make_shared<NormsRequest>();
  CLI::App* verb = bench.add_subcommand(
      "norms", "every norm's forward and backward pass beside PyTorch's layer_norm");
  const CLI::Range size(int64_t{1}, int64_t{1} << 30);
  verb->add_option("--rows", request->rows, "tokens")->check(size);
  verb->add_option("--width", request->width, "channels")->check(size);
  add_bench_limits(*verb, request->limits);
  verb->footer("Example:\n  formwork bench norms --threads 1 --json");
  verb->callback([request] { bench_norms(*request); });
}

}  // namespace formwork

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "cli/bench.h"
#include "cli/console.h"
#include "cli/memory_speed.h"
#include "cli/operator_rows.h"
#include "cli/product_speed.h"
#include "cli/timing.h"
#include "training/flops.h"

namespace formwork {
namespace {

struct OpsRequest {
  OperatorSizes sizes;
  std::vector<std::string> only;
  BenchLimits limits;
};

/// A forward pass without gradients, or a forward and backward pass, of one operator: its work, and
/// the times of ours and of each peer in milliseconds.
struct OperatorPass {
  const char* name = "";
  double gigaflops = 0.0, bytes = 0.0;
  std::vector<double> ours;
  std::vector<std::vector<double>> peers;

  double gigaflop_rate() const { return gigaflops / least(ours) * 1e3; }
  double byte_rate() const { return bytes / least(ours) * 1e3; }
  /// The time of the fastest peer as a multiple of ours; 0 without a peer.
  double ratio(double (*of)(const std::vector<double>&)) const {
    double fastest = INFINITY;
    for (const std::vector<double>& times : peers) fastest = std::min(fastest, of(times));
    return peers.empty() ? 0.0 : fastest / of(ours);
  }
};

/// An operator while it is measured.
class OperatorTimes {
 public:
  explicit OperatorTimes(OperatorRow row) : row_(std::move(row)) {
    for (const Tensor& tensor : row_.tensors) trained_ = trained_ || tensor.requires_grad();
    forward_.name = "forward";
    training_.name = "training";
    count_work();
    for (OperatorPass* pass : {&forward_, &training_}) pass->peers.resize(row_.peers.size());
    run();
    for (OperatorPass* pass : {&forward_, &training_}) {
      pass->ours.clear();
      for (std::vector<double>& times : pass->peers) times.clear();
    }
  }

  /// Every way to compute it once, in turns.
  void run() {
    time(row_.ours, forward_.ours, training_.ours);
    for (size_t i = 0; i < row_.peers.size(); ++i)
      time(row_.peers[i], forward_.peers[i], training_.peers[i]);
  }

  std::vector<const OperatorPass*> passes() const {
    return trained_ ? std::vector<const OperatorPass*>{&forward_, &training_}
                    : std::vector<const OperatorPass*>{&forward_};
  }
  const std::string& name() const { return row_.name; }
  /// "4096x768, 768", of all tensors.
  std::string shape() const {
    std::string text;
    for (const Tensor& tensor : row_.tensors) {
      text += text.empty() ? "" : ", ";
      for (int64_t d = 0; d < tensor.dim(); ++d)
        text += join_text(d == 0 ? "" : "x", tensor.size(d));
    }
    return text;
  }

 private:
  void time(const std::function<Tensor()>& pass, std::vector<double>& forward,
            std::vector<double>& training) {
    {
      const c10::NoGradGuard no_grad;
      const double start = milliseconds();
      pass();
      forward.push_back(milliseconds() - start);
    }
    if (!trained_) return;
    const double start = milliseconds();
    pass().backward(gradient_);
    training.push_back(milliseconds() - start);
    drop_gradients();
  }

  void drop_gradients() {
    for (const Tensor& tensor : row_.tensors) tensor.mutable_grad().reset();
  }

  /// Operations as the dispatcher sees them; bytes of all that must be read and written.
  void count_work() {
    double read = 0.0, gradients = 0.0;
    for (const Tensor& tensor : row_.tensors) {
      read += static_cast<double>(tensor.nbytes());
      if (tensor.requires_grad()) gradients += static_cast<double>(tensor.nbytes());
    }
    const FlopCounter counter;
    const Tensor out = row_.ours();
    forward_.gigaflops = counter.count() / 1e9;
    const double written = out.defined() ? static_cast<double>(out.nbytes()) : 0.0;
    forward_.bytes = row_.bytes > 0.0 ? row_.bytes : read + written;
    if (!trained_) return;
    gradient_ = out.dim() == 0 ? at::ones({}) : normal_tensor(out.sizes(), 1.0, RandomStream(2));
    out.backward(gradient_);
    drop_gradients();
    training_.gigaflops = counter.count() / 1e9;
    training_.bytes = forward_.bytes + read + written + gradients;
  }

  OperatorRow row_;
  Tensor gradient_;
  bool trained_ = false;
  OperatorPass forward_, training_;
};

struct Ceilings {
  double product = 0.0;  // GFLOP/s
  MemorySpeed memory;
};

std::vector<OperatorTimes> chosen_operators(const OpsRequest& request) {
  std::vector<OperatorRow> rows = operator_rows(request.sizes);
  std::string names;
  for (size_t i = 0; i < rows.size(); ++i)
    if (i == 0 || rows[i].name != rows[i - 1].name) names += (i == 0 ? "" : ", ") + rows[i].name;
  for (const std::string& wanted : request.only)
    check(std::any_of(rows.begin(), rows.end(),
                      [&](const OperatorRow& row) { return row.name == wanted; }),
          "--only", "no operator is called '", wanted, "'; valid: ", names);
  std::vector<OperatorTimes> all;
  for (OperatorRow& row : rows)
    if (request.only.empty() || std::count(request.only.begin(), request.only.end(), row.name) > 0)
      all.emplace_back(std::move(row));
  return all;
}

Value to_value(const OperatorTimes& times, const OperatorPass& pass, const Ceilings& ceilings) {
  Value entry{Table{}};
  entry["operator"] = Value(times.name());
  entry["shape"] = Value(times.shape());
  entry["pass"] = Value(pass.name);
  entry["ms"] = times_table(pass.ours);
  entry["gflop_per_second"] = Value(pass.gigaflop_rate());
  entry["share_of_product"] = Value(pass.gigaflop_rate() / ceilings.product);
  entry["gb_per_second"] = Value(pass.byte_rate() / 1e9);
  entry["share_of_triad"] = Value(pass.byte_rate() / ceilings.memory.triad);
  if (pass.peers.empty()) return entry;
  entry["ratio"]["least"] = Value(pass.ratio(least));
  entry["ratio"]["median"] = Value(pass.ratio([](const auto& t) { return median(t); }));
  List peers;
  for (const std::vector<double>& each : pass.peers) peers.push_back(times_table(each));
  entry["peers_ms"] = Value(std::move(peers));
  return entry;
}

void print(const OperatorTimes& times, const OperatorPass& pass, const Ceilings& ceilings) {
  std::printf("%-24s %-8s %9.3f %9.3f %5.0f %%", times.name().c_str(), pass.name, median(pass.ours),
              least(pass.ours), 100.0 * spread(pass.ours));
  if (pass.gigaflops > 0.0)
    std::printf(" %7.0f %4.0f %%", pass.gigaflop_rate(),
                100.0 * pass.gigaflop_rate() / ceilings.product);
  else
    std::printf(" %7s %6s", "", "");
  std::printf(" %6.1f %4.0f %%", pass.byte_rate() / 1e9,
              100.0 * pass.byte_rate() / ceilings.memory.triad);
  if (pass.peers.empty())
    std::printf(" %6s %6s", "", "");
  else
    std::printf(" %6.2f %6.2f", pass.ratio(least),
                pass.ratio([](const auto& t) { return median(t); }));
  std::printf("  %s\n", times.shape().c_str());
}

void bench_ops(const OpsRequest& request) {
  use_threads(request.limits.threads);
  std::vector<OperatorTimes> all = chosen_operators(request);
  ProductMeter product;
  MemoryMeter memory;
  Ceilings ceilings;
  for (int64_t round = 0; round < request.limits.rounds; ++round) {
    ceilings = {product.measure(), memory.measure()};
    for (OperatorTimes& times : all) times.run();
  }
  Value table{Table{}};
  List entries;
  if (!request.limits.json)
    std::printf(
        "operators, float32, %d threads, %lld rounds; ratio: of the fastest other way's time\n"
        "%-33s %9s %9s %7s %7s %6s %6s %6s %6s %6s\n%-33s %9s %9s %7s %7s %6s %6s %6s %6s %6s\n",
        at::get_num_threads(), static_cast<long long>(request.limits.rounds), "", "median", "least",
        "spread", "GFLOP/s", "of", "GB/s", "of", "ratio", "ratio", "", "ms", "ms", "", "",
        "product", "", "triad", "least", "median");
  for (const OperatorTimes& times : all)
    for (const OperatorPass* pass : times.passes())
      if (request.limits.json)
        entries.push_back(to_value(times, *pass, ceilings));
      else
        print(times, *pass, ceilings);
  if (!request.limits.json) {
    std::printf("a large product: %.0f GFLOP/s; triad a = b + s c: %.1f GB/s\n", ceilings.product,
                ceilings.memory.triad / 1e9);
    return;
  }
  table["threads"] = Value(int64_t{at::get_num_threads()});
  table["rounds"] = Value(request.limits.rounds);
  table["product_gflop_per_second"] = Value(ceilings.product);
  table["triad_gb_per_second"] = Value(ceilings.memory.triad / 1e9);
  table["operators"] = Value(std::move(entries));
  print_json(table);
}

}  // namespace

void add_bench_ops(CLI::App& bench) {
  const auto request = std::make_shared<OpsRequest>();
  CLI::App* verb = bench.add_subcommand(
      "ops", "every operator forward and backward, beside PyTorch's and the machine's ceilings");
  const CLI::Range size(int64_t{1}, int64_t{1} << 24);
  verb->add_option("--tokens", request->sizes.tokens, "tokens")->check(size);
  verb->add_option("--width", request->sizes.width, "channels")->check(size);
  verb->add_option("--only", request->only, "this operator; may be repeated")
      ->take_all()
      ->allow_extra_args(false);
  add_bench_limits(*verb, request->limits);
  verb->footer("Example:\n  formwork bench ops --only rms_norm --only attention --rounds 20");
  verb->callback([request] { bench_ops(*request); });
}

}  // namespace formwork

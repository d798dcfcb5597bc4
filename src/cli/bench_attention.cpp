#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>

#include "cli/bench.h"
#include "cli/console.h"
#include "cli/timing.h"
#include "kernels/attention.h"
#include "methods/module.h"

namespace formwork {
namespace {

struct AttentionRequest {
  BenchLimits limits{10};
};

struct Case {
  const char* name;
  int64_t batch, heads, tokens, width;
  bool causal;
};
constexpr Case kCases[] = {{"ListOps encoder", 32, 4, 512, 32, false},
                           {"character decoder", 16, 6, 256, 64, true},
                           {"2,048 tokens", 2, 6, 2048, 64, true},
                           {"8,192 tokens", 1, 2, 8192, 64, true}};

/// Forward and backward, a round each, of ours and of PyTorch's.
struct Times {
  std::vector<double> ours, peers;
};

/// The products of the forward pass and, at two and a half times it, of the backward pass.
double gigaflops(const Case& c) {
  const double pairs = static_cast<double>(c.batch * c.heads * c.tokens * c.tokens);
  return 3.5 * 4.0 * pairs * static_cast<double>(c.width) * (c.causal ? 0.5 : 1.0) / 1e9;
}

Times measure(const Case& c, int64_t rounds) {
  const RandomStream random(1);
  const auto draw = [&](const char* name) {  // heads inside rows, as projections leave them
    return normal_tensor({c.batch, c.tokens, c.heads, c.width}, 1.0, random.child(name))
        .transpose(1, 2);
  };
  const Tensor q = draw("q").requires_grad_(), k = draw("k").requires_grad_(),
               v = draw("v").requires_grad_(), gradient = draw("gradient");
  const AttentionRule rule{c.causal, 1.0 / std::sqrt(static_cast<double>(c.width)), {}};
  const auto time = [&](const auto& forward) {
    const double start = milliseconds();
    forward().backward(gradient);
    const double spent = milliseconds() - start;
    for (const Tensor& tensor : {q, k, v}) tensor.mutable_grad().reset();
    return spent;
  };
  Times times;
  for (int64_t round = -1; round < rounds; ++round) {  // the first warms up
    const double ours = time([&] { return attention(q, k, v, rule); });
    const double peers = time(
        [&] { return at::scaled_dot_product_attention(q, k, v, {}, 0.0, c.causal, rule.scale); });
    if (round < 0) continue;
    times.ours.push_back(ours);
    times.peers.push_back(peers);
  }
  return times;
}

Value to_value(const Case& c, const Times& times) {
  Value entry{Table{}};
  entry["case"] = Value(std::string(c.name));
  entry["shape"] = Value(join_text(c.batch, "x", c.heads, "x", c.tokens, "x", c.width));
  entry["causal"] = Value(c.causal);
  for (const auto& [name, side] : {std::pair("formwork", &times.ours),
                                   std::pair("scaled_dot_product_attention", &times.peers)}) {
    entry[name]["ms"]["least"] = Value(least(*side));
    entry[name]["ms"]["median"] = Value(median(*side));
    entry[name]["gflop_per_second"] = Value(gigaflops(c) / least(*side) * 1e3);
  }
  entry["ratio"]["least"] = Value(least(times.peers) / least(times.ours));
  entry["ratio"]["median"] = Value(median(times.peers) / median(times.ours));
  return entry;
}

void print(const Case& c, const Times& times) {
  const std::string shape =
      join_text(c.batch, "x", c.heads, "x", c.tokens, "x", c.width, c.causal ? " causal" : "");
  std::printf("%-18s %-22s %8.1f %8.1f %8.0f %10.1f %8.1f %8.0f %8.2f %8.2f\n", c.name,
              shape.c_str(), least(times.ours), median(times.ours),
              gigaflops(c) / least(times.ours) * 1e3, least(times.peers), median(times.peers),
              gigaflops(c) / least(times.peers) * 1e3, least(times.peers) / least(times.ours),
              median(times.peers) / median(times.ours));
}

void bench_attention(const AttentionRequest& request) {
  use_threads(request.limits.threads);
  if (!request.limits.json)
    std::printf(
        "softmax attention in training (forward and backward), float32, %lld rounds\n"
        "%-41s %8s %8s %8s %10s %8s %8s %8s %8s\n%-41s %8s %8s %8s %10s %8s %8s %8s %8s\n",
        static_cast<long long>(request.limits.rounds), "", "ours, ms", "", "", "PyTorch's", "", "",
        "ratio", "", "", "least", "median", "GFLOP/s", "least", "median", "GFLOP/s", "least",
        "median");
  List entries;
  for (const Case& c : kCases) {
    const Times times = measure(c, request.limits.rounds);
    if (!request.limits.json) print(c, times);
    entries.push_back(to_value(c, times));
  }
  if (request.limits.json) print_json(Value(std::move(entries)));
}

}  // namespace

void add_bench_attention(CLI::App& bench) {
  const auto request = std::make_shared<AttentionRequest>();
  CLI::App* verb = bench.add_subcommand(
      "attention", "softmax attention beside PyTorch's scaled_dot_product_attention");
  add_bench_limits(*verb, request->limits);
  verb->footer("Example:\n  formwork bench attention --rounds 20");
  verb->callback([request] { bench_attention(*request); });
}

}  // namespace formwork

// What `formwork bench` measures: each file adds one subcommand to it.
#pragma once

#include <cstdint>

namespace CLI {
class App;
}

namespace formwork {

/// What benches are told about how to measure.
struct BenchLimits {
  int64_t rounds = 10, threads = 0;
  bool json = false;
};
/// --rounds, --threads and --json; `limits` outlives the parsing.
void add_bench_limits(CLI::App& verb, BenchLimits& limits);

void add_bench_norms(CLI::App& bench);
void add_bench_attention(CLI::App& bench);
void add_bench_matmul(CLI::App& bench);
void add_bench_mixers(CLI::App& bench);
void add_bench_conditioning(CLI::App& bench);
void add_bench_decode(CLI::App& bench);
void add_bench_infer(CLI::App& bench);
void add_bench_ops(CLI::App& bench);

}  // namespace formwork

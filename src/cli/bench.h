// What `formwork bench` measures: each file adds one subcommand to it.
#pragma once

namespace CLI {
class App;
}

namespace formwork {

void add_bench_norms(CLI::App& bench);
void add_bench_attention(CLI::App& bench);
void add_bench_matmul(CLI::App& bench);
void add_bench_mixers(CLI::App& bench);
void add_bench_conditioning(CLI::App& bench);
void add_bench_decode(CLI::App& bench);

}  // namespace formwork

#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>

#include "cli/bench.h"
#include "cli/console.h"
#include "cli/timing.h"
#include "kernels/matmul.h"

namespace formwork {
namespace {

struct MatmulRequest {
  std::vector<std::string> shapes;
  BenchLimits limits{10};
};

/// A linear map's sizes: R tokens of `in` channels to `out`.
struct MapSize {
  int64_t rows, in, out;
};

/// The maps of recipes/bench-characters.toml, recipes/bench-listops.toml and GPT-2 small.
const std::vector<std::string> kUsualShapes{"4096x384x1536", "4096x1536x384", "4096x384x384",
                                            "16384x128x512", "16384x128x128", "1024x768x3072",
                                            "1024x768x768"};

MapSize size_of(const std::string& text) {
  long long rows = 0, in = 0, out = 0;
  char rest = 0;
  const int found = std::sscanf(text.c_str(), "%lldx%lldx%lld%c", &rows, &in, &out, &rest);
  check(found == 3 && rows > 0 && in > 0 && out > 0 && rows < (1 << 24) && in < (1 << 20) &&
            out < (1 << 20),
        "--shape", "found '", text, "'; valid: ROWSxINxOUT, such as 4096x384x1536");
  return {rows, in, out};
}

/// One product a bᵀ of a map and its times by each library, in milliseconds.
struct Product {
  const char* name;
  Tensor a, b;
  std::map<MatmulLibrary, std::vector<double>> times;

  double gflops(MatmulLibrary library) const {
    const double operations = 2.0 * static_cast<double>(a.numel()) * static_cast<double>(b.size(0));
    return operations / least(times.at(library)) / 1e6;
  }
};

std::vector<Product> products_of(const MapSize& size) {
  const RandomStream random(1);
  const Tensor x = normal_tensor({size.rows, size.in}, 1.0, random.child("x"));
  const Tensor w = normal_tensor({size.out, size.in}, 1.0, random.child("w"));
  const Tensor slope = normal_tensor({size.rows, size.out}, 1.0, random.child("g"));
  return {{"y = x Wᵀ", x, w, {}},
          {"dx = dy W", slope, w.t(), {}},
          {"dW = dyᵀ x", slope.t(), x.t(), {}}};
}

double time_of(MatmulLibrary library, const Product& product) {
  const double start = milliseconds();
  product_by(library, product.a, product.b);
  return milliseconds() - start;
}

std::vector<Product> measure(const MapSize& size, int64_t rounds) {
  std::vector<Product> all = products_of(size);
  for (int64_t round = -1; round < rounds; ++round)
    for (Product& product : all)
      for (const MatmulLibrary library : matmul_libraries()) {
        const double time = time_of(library, product);
        if (round >= 0) product.times[library].push_back(time);  // the first warms up
      }
  return all;
}

void add_values(List& list, const std::string& shape, const std::vector<Product>& products) {
  for (const Product& product : products) {
    Value entry{Table{}};
    entry["shape"] = Value(shape);
    entry["product"] = Value(product.name);
    for (const MatmulLibrary library : matmul_libraries())
      entry["gflops"][name_of(library)] = Value(product.gflops(library));
    entry["chosen"] = Value(name_of(faster_library(product.a, product.b)));
    list.push_back(std::move(entry));
  }
}

void print_rows(const std::string& shape, const std::vector<Product>& products) {
  for (const Product& product : products) {
    std::printf("%-16s %-12s", shape.c_str(), product.name);
    for (const MatmulLibrary library : matmul_libraries())
      std::printf(" %8.1f", product.gflops(library));
    std::printf("   %s\n", name_of(faster_library(product.a, product.b)));
  }
}

void bench_matmul(const MatmulRequest& request) {
  use_threads(request.limits.threads);
  std::vector<std::string> shapes = request.shapes.empty() ? kUsualShapes : request.shapes;
  for (const std::string& shape : shapes) size_of(shape);
  Value table{Table{}};
  List all;
  if (!request.limits.json) {
    std::printf(
        "products of linear maps, float32, GFLOP/s at the least of %lld rounds\n%-16s %-12s",
        static_cast<long long>(request.limits.rounds), "rows x in x out", "");
    for (const MatmulLibrary library : matmul_libraries()) std::printf(" %8s", name_of(library));
    std::printf("   taken\n");
  }
  for (const std::string& shape : shapes) {
    const std::vector<Product> products = measure(size_of(shape), request.limits.rounds);
    if (request.limits.json)
      add_values(all, shape, products);
    else
      print_rows(shape, products);
  }
  table["products"] = Value(std::move(all));
  table["choices"] = Value(matmul_cache_file());
  if (request.limits.json)
    print_json(table);
  else if (!matmul_cache_file().empty())
    std::printf("choices are kept in %s\n", matmul_cache_file().c_str());
}

}  // namespace

void add_bench_matmul(CLI::App& bench) {
  const auto request = std::make_shared<MatmulRequest>();
  CLI::App* verb = bench.add_subcommand(
      "matmul", "the three products of linear maps by each library, and which one is taken");
  verb->add_option("--shape", request->shapes, "ROWSxINxOUT of a map; may be repeated")
      ->take_all()
      ->allow_extra_args(false);
  add_bench_limits(*verb, request->limits);
  verb->footer(
      "The environment's FORMWORK_MATMUL=mkl, onednn or formwork overrules the choice.\n"
      "Example:\n  formwork bench matmul --shape 4096x768x3072 --threads 1");
  verb->callback([request] { bench_matmul(*request); });
}

}  // namespace formwork

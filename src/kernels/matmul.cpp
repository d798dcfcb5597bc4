#include "kernels/matmul.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/record_function.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <map>
#include <optional>
#include <utility>

#include "core/error.h"
#include "kernels/matmul_memory.h"
#include "kernels/matrix_product.h"

namespace formwork {
namespace {

using LinearPointwise = Tensor(const Tensor&, const Tensor&, const std::optional<Tensor>&,
                               std::string_view, c10::List<std::optional<at::Scalar>>,
                               std::optional<std::string_view>);

/// oneDNN's product, which inductor's compiled programs call too: it takes plain weights.
const c10::TypedOperatorHandle<LinearPointwise>* onednn_product() {
  static const auto found = []() -> std::optional<c10::TypedOperatorHandle<LinearPointwise>> {
    if (!at::globalContext().hasMKLDNN()) return std::nullopt;
    const auto schema = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
    if (!schema) return std::nullopt;
    return schema->typed<LinearPointwise>();
  }();
  return found ? &*found : nullptr;
}

/// Below this many multiplications a choice gains less than asking for it costs; above, a part of
/// the product tells enough.
constexpr int64_t kLeastProduct = int64_t{1} << 22, kMostTimed = int64_t{1} << 31;
constexpr int kTurns = 7;
/// What another library than blas has to gain.
constexpr double kClearly = 1.05;

int64_t multiplications(const ProductShape& shape) {
  return shape.m * shape.n * shape.k;
}

Tensor matrix(int64_t rows, int64_t columns, bool row_after_row) {
  return row_after_row ? at::ones({rows, columns}) : at::ones({columns, rows}).t();
}

double seconds_of(MatmulLibrary library, const Tensor& a, const Tensor& b) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  product_by(library, a, b);
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// The time of blas by that of every library, in the order of matmul_libraries(): the median of
/// several turns, in each of which all work under the same conditions.
std::vector<double> measured_speedups(ProductShape shape) {
  const c10::NoGradGuard no_grad;
  const at::DisableRecordFunctionGuard unseen;  // by those who count a model's operations
  while (multiplications(shape) > kMostTimed) {
    int64_t& longest = std::max({std::ref(shape.m), std::ref(shape.n), std::ref(shape.k)},
                                [](const auto& a, const auto& b) { return a.get() < b.get(); });
    longest /= 2;
  }
  const Tensor a = matrix(shape.m, shape.k, shape.a_rows);
  const Tensor b = matrix(shape.n, shape.k, shape.b_rows);
  const std::vector<MatmulLibrary>& libraries = matmul_libraries();
  std::vector<std::array<double, kTurns>> turns(libraries.size());
  for (int turn = -1; turn < kTurns; ++turn) {
    double blas = 0.0;
    for (size_t i = 0; i < libraries.size(); ++i) {
      const double seconds = seconds_of(libraries[i], a, b);
      if (i == 0) blas = seconds;
      if (turn >= 0) turns[i][static_cast<size_t>(turn)] = blas / seconds;  // the first prepares
    }
  }
  std::vector<double> medians;
  for (std::array<double, kTurns>& each : turns) {
    std::nth_element(each.begin(), each.begin() + kTurns / 2, each.end());
    medians.push_back(each[kTurns / 2]);
  }
  return medians;
}

std::optional<MatmulLibrary> library_in_environment() {
  const char* wanted = std::getenv("FORMWORK_MATMUL");
  if (!wanted || !*wanted) return std::nullopt;
  std::string names;
  for (const MatmulLibrary library : matmul_libraries()) {
    if (name_of(library) == std::string(wanted)) return library;
    names += (names.empty() ? "" : ", ") + std::string(name_of(library));
  }
  refuse("FORMWORK_MATMUL", "found '", wanted, "'; valid with this libtorch: ", names);
}

int64_t power_of_two(int64_t size) {
  return int64_t{1} << std::lround(std::log2(static_cast<double>(size)));
}

ProductShape class_of(const ProductShape& shape) {
  return {power_of_two(shape.m), power_of_two(shape.n), power_of_two(shape.k), shape.a_rows,
          shape.b_rows};
}

/// As it was measured, now or by an earlier process.
MatmulLibrary remembered_library(const ProductShape& of_class, const ProductShape& shape) {
  MatmulMemory& memory = MatmulMemory::of_this_machine();
  const std::string name = join_text(" M ", of_class.m, " N ", of_class.n, " K ", of_class.k, " ",
                                     of_class.a_rows ? 'r' : 'c', of_class.b_rows ? 'r' : 'c');
  const std::vector<MatmulLibrary>& libraries = matmul_libraries();
  std::vector<double> measured;
  MatmulLibrary fastest = MatmulLibrary::blas;
  double most = kClearly;
  for (size_t i = 1; i < libraries.size(); ++i) {
    const std::string key = name_of(libraries[i]) + name;
    std::optional<double> speedup = memory.find(key);
    if (!speedup && measured.empty()) measured = measured_speedups(shape);
    if (!speedup) speedup = memory.keep(key, measured[i]);
    if (*speedup < most) continue;
    most = *speedup;
    fastest = libraries[i];
  }
  return fastest;
}

bool is_in_order(const Tensor& matrix) {
  return matrix.stride(0) == 1 || matrix.stride(1) == 1;
}

}  // namespace

bool has_onednn() {
  return onednn_product() != nullptr;
}

const std::vector<MatmulLibrary>& matmul_libraries() {
  static const std::vector<MatmulLibrary> all =
      has_onednn()
          ? std::vector{MatmulLibrary::blas, MatmulLibrary::onednn, MatmulLibrary::formwork}
          : std::vector{MatmulLibrary::blas, MatmulLibrary::formwork};
  return all;
}

const char* name_of(MatmulLibrary library) {
  switch (library) {
    case MatmulLibrary::onednn:
      return "onednn";
    case MatmulLibrary::formwork:
      return "formwork";
    default:
      return "mkl";
  }
}

Tensor product_by(MatmulLibrary library, const Tensor& a, const Tensor& b, const Tensor& bias) {
  if (library == MatmulLibrary::formwork)
    return cpu::matrix_product(a, b, bias.defined() ? bias.contiguous() : bias);
  if (library == MatmulLibrary::onednn)
    return onednn_product()->call(a, b, bias.defined() ? std::optional<Tensor>(bias) : std::nullopt,
                                  "none", c10::List<std::optional<at::Scalar>>(), "");
  return bias.defined() ? at::addmm(bias, a, b.t()) : at::mm(a, b.t());
}

const std::optional<MatmulLibrary>& forced_library() {
  static const std::optional<MatmulLibrary> forced = library_in_environment();
  return forced;
}

MatmulLibrary faster_library(const ProductShape& shape) {
  const std::optional<MatmulLibrary>& forced = forced_library();
  if (multiplications(shape) == 0) return MatmulLibrary::blas;
  if (forced) return *forced;
  if (multiplications(shape) < kLeastProduct) return MatmulLibrary::blas;
  // Every linear map asks in every pass: names and locks are for a class that is new to the thread.
  static thread_local std::map<std::pair<int, ProductShape>, MatmulLibrary> known;
  const std::pair key(at::get_num_threads(), class_of(shape));
  const auto found = known.find(key);
  if (found != known.end()) return found->second;
  return known[key] = remembered_library(key.second, shape);
}

MatmulLibrary faster_library(const Tensor& a, const Tensor& b) {
  if (!a.is_cpu() || a.scalar_type() != at::kFloat || b.scalar_type() != at::kFloat ||
      !is_in_order(a) || !is_in_order(b))
    return MatmulLibrary::blas;
  return faster_library({a.size(0), b.size(0), a.size(1), a.stride(1) == 1, b.stride(1) == 1});
}

Tensor best_product(const Tensor& a, const Tensor& b, const Tensor& bias) {
  return product_by(faster_library(a, b), a, b, bias);
}

std::string matmul_cache_file() {
  return MatmulMemory::of_this_machine().file();
}

}  // namespace formwork

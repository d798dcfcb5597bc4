// Products by either library, the choice between them, and linear maps with all their gradients.
#include "kernels/matmul.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstdlib>
#include <fstream>

#include "core/error.h"
#include "kernels/linear_map.h"
#include "kernels/matmul_memory.h"
#include "kernels/simd_levels.h"
#include "support/compare.h"
#include "support/gradcheck.h"
#include "support/refusal.h"
#include "support/temporary_folder.h"

namespace formwork::test {
namespace {

Tensor float_numbers(at::IntArrayRef shape, uint64_t seed) {
  return numbers(shape, seed).to(at::kFloat);
}

/// Error of a bᵀ as a part of |a| |b|ᵀ, the size its rounding goes by.
double relative_error(const Tensor& y, const Tensor& a, const Tensor& b) {
  const Tensor wide_a = a.to(at::kDouble), wide_b = b.to(at::kDouble);
  const Tensor size = at::mm(wide_a.abs(), wide_b.abs().t()) + 1e-30;
  return ((y.to(at::kDouble) - at::mm(wide_a, wide_b.t())).abs() / size).max().item<double>();
}

TEST(unit, matmul_finds_onednn_where_libtorch_has_it) {
  EXPECT_EQ(has_onednn(), at::globalContext().hasMKLDNN());
}

TEST(unit, matmul_libraries_agree) {
  for (const auto& [m, n, k] : std::vector<std::array<int64_t, 3>>{
           {1, 1, 1}, {3, 5, 7}, {17, 33, 65}, {130, 257, 129}, {200, 30, 1000}, {24, 4099, 5}})
    for (const bool a_rows : {true, false})
      for (const bool b_rows : {true, false}) {
        const Tensor a = a_rows ? float_numbers({m, k}, 1) : float_numbers({k, m}, 1).t();
        const Tensor b = b_rows ? float_numbers({n, k}, 2) : float_numbers({k, n}, 2).t();
        for (const MatmulLibrary library : matmul_libraries()) {
          EXPECT_LT(relative_error(product_by(library, a, b), a, b), 2e-6) << m << n << k;
          const Tensor bias = float_numbers({n}, 3);
          const Tensor shifted = product_by(library, a, b, bias);
          EXPECT_LT((shifted - bias - at::mm(a, b.t())).abs().max().item<double>(), 1e-3);
        }
      }
}

/// Compares linear_map and its gradients with float64; at least once with two derivatives.
void expect_linear(at::IntArrayRef shape, int64_t out, bool with_bias) {
  const Tensor x = float_numbers(shape, 1).requires_grad_(true);
  const Tensor w = float_numbers({out, shape.back()}, 2).requires_grad_(true);
  const Tensor b = with_bias ? float_numbers({out}, 3).requires_grad_(true) : Tensor();
  const Tensor y = linear_map(x, w, b);
  const Tensor wide_x = x.detach().to(at::kDouble).requires_grad_(true);
  const Tensor wide_w = w.detach().to(at::kDouble).requires_grad_(true);
  const Tensor wide_b = with_bias ? b.detach().to(at::kDouble).requires_grad_(true) : Tensor();
  const Tensor wide_y = at::linear(wide_x, wide_w, wide_b);
  const Tensor slope = float_numbers(y.sizes(), 4);
  y.backward(slope);
  wide_y.backward(slope.to(at::kDouble));
  const auto close = [](const Tensor& found, const Tensor& wanted) {
    ASSERT_EQ(found.sizes(), wanted.sizes());
    if (found.numel() > 0) {
      const double size = wanted.abs().max().item<double>();
      EXPECT_LT((found.to(at::kDouble) - wanted).abs().max().item<double>(), 3e-6 * size + 1e-30);
    }
  };
  close(y, wide_y);
  close(x.grad(), wide_x.grad());
  close(w.grad(), wide_w.grad());
  if (with_bias) close(b.grad(), wide_b.grad());
}

TEST(unit, matmul_by_formwork_in_any_strides) {
  const Tensor a = float_numbers({90, 800}, 1).slice(0, 0, 90, 2).slice(1, 0, 800, 2);
  const Tensor b = float_numbers({50, 400}, 2), row = float_numbers({1, 400}, 3);
  const auto product = [](const Tensor& x, const Tensor& y) {
    return product_by(MatmulLibrary::formwork, x, y);
  };
  EXPECT_LT(relative_error(product(a, b), a, b), 2e-6);
  EXPECT_LT(relative_error(product(b, a), b, a), 2e-6);
  const Tensor same = row.expand({7, 400});
  EXPECT_LT(relative_error(product(same, b), same, b), 2e-6);
  EXPECT_EQ(product(a.slice(0, 0, 0), b).sizes(), at::IntArrayRef({0, 50}));
  EXPECT_EQ(product(a, b.slice(0, 0, 0)).sizes(), at::IntArrayRef({45, 0}));
  const Tensor bias = float_numbers({50}, 4);
  expect_same_bits("no terms",
                   product_by(MatmulLibrary::formwork, at::ones({3, 0}), at::ones({50, 0}), bias),
                   bias.expand({3, 50}));
}

TEST(unit, matmul_by_formwork_is_the_same_on_any_threads) {
  const Tensor a = float_numbers({333, 900}, 1), b = float_numbers({70, 900}, 2);
  const int before = at::get_num_threads();
  std::vector<Tensor> found;
  for (const int threads : {1, 2, 5}) {
    at::set_num_threads(threads);
    found.push_back(product_by(MatmulLibrary::formwork, a, b));
  }
  at::set_num_threads(before);
  expect_same_bits("2 threads", found[1], found[0]);
  expect_same_bits("5 threads", found[2], found[0]);
}

TEST(unit, matmul_by_formwork_of_every_level) {
  const Tensor a = float_numbers({26, 37}, 1), b = float_numbers({70, 37}, 2);
  const Tensor bias = float_numbers({70}, 3), wanted = at::mm(a, b.t()) * 2 + bias;
  for (const cpu::SimdLevel& level : cpu::simd_levels()) {
    const MatrixPieces& pieces = *level.pieces;
    const auto strided = [](const Tensor& x) {
      return StridedMatrix{x.data_ptr<float>(), x.stride(0), x.stride(1)};
    };
    const Tensor left = at::empty({(26 + pieces.left_rows) * 37}),
                 right = at::empty({(70 + pieces.right_rows) * 37}), to = at::full({26, 70}, 1e9);
    pieces.pack_left(strided(a), 26, 37, left.data_ptr<float>());
    pieces.pack_right(strided(b), 70, 37, right.data_ptr<float>());
    for (const bool begin : {true, false})
      pieces.multiply(left.data_ptr<float>(), 26, right.data_ptr<float>(), 70, 37, begin,
                      bias.data_ptr<float>(), to.data_ptr<float>(), 70);
    EXPECT_LT((to - wanted).abs().max().item<double>(), 1e-4) << level.attention->name;
  }
}

TEST(unit, linear_map_by_formwork) {
  ::setenv("FORMWORK_MATMUL", "formwork", 1);
  EXPECT_EQ(faster_library({1, 1, 1}), MatmulLibrary::formwork);
  for (const bool with_bias : {true, false}) {
    expect_linear({5, 7}, 3, with_bias);
    expect_linear({2, 1, 3, 9}, 1, with_bias);
    expect_linear({64, 500}, 257, with_bias);
    expect_linear({2, 0, 9}, 4, with_bias);
  }
}

TEST(unit, linear_map_by_onednn) {
  if (!has_onednn()) GTEST_SKIP() << "this libtorch has no oneDNN";
  ::setenv("FORMWORK_MATMUL", "onednn", 1);
  EXPECT_EQ(faster_library({1, 1, 1}), MatmulLibrary::onednn);
  for (const bool with_bias : {true, false}) {
    expect_linear({5, 7}, 3, with_bias);
    expect_linear({2, 3, 17}, 33, with_bias);
    expect_linear({2, 1, 3, 9}, 1, with_bias);
    expect_linear({64, 128}, 257, with_bias);
    expect_linear({2, 0, 9}, 4, with_bias);
  }
  const Tensor wide = numbers({4, 6}, 5), w = numbers({3, 6}, 6);
  expect_same_bits("float64", linear_map(wide, w), at::linear(wide, w));
  const Tensor strided = float_numbers({9, 4}, 7).t(), weight = float_numbers({5, 9}, 8);
  EXPECT_LT(relative_error(linear_map(strided, weight), strided, weight), 2e-6);
}

TEST(unit, linear_map_has_second_derivatives) {
  if (!has_onednn()) GTEST_SKIP() << "this libtorch has no oneDNN";
  ::setenv("FORMWORK_MATMUL", "onednn", 1);
  const Tensor x = float_numbers({4, 6}, 1).requires_grad_(true);
  const Tensor w = float_numbers({3, 6}, 2).requires_grad_(true);
  const auto penalty = [&](const Tensor& y) {
    const Tensor slope = torch::autograd::grad({y.square().sum()}, {x}, {}, true, true)[0];
    return torch::autograd::grad({slope.square().sum()}, {w})[0];
  };
  const Tensor ours = penalty(linear_map(x, w)), theirs = penalty(at::linear(x, w));
  EXPECT_LT((ours - theirs).abs().max().item<double>(), 1e-4 * theirs.abs().max().item<double>());
}

TEST(unit, linear_map_by_mkl_is_pytorchs) {
  ::setenv("FORMWORK_MATMUL", "mkl", 1);
  const Tensor x = float_numbers({2, 64, 96}, 1), w = float_numbers({80, 96}, 2),
               b = float_numbers({80}, 3);
  expect_same_bits("y", linear_map(x, w, b), at::linear(x, w, b));
}

TEST(unit, matmul_refuses_unknown_libraries) {
  ::setenv("FORMWORK_MATMUL", "blis", 1);
  expect_error(
      [] {
        faster_library({1, 1, 1});
      },
      Fault::request, {"FORMWORK_MATMUL", "blis", "mkl", "onednn", "formwork"});
}

TEST(unit, matmul_choices_are_kept) {
  const TemporaryFolder folder;
  ::setenv("XDG_CACHE_HOME", folder.path().c_str(), 1);
  ::unsetenv("FORMWORK_MATMUL");
  const MatmulLibrary first = faster_library({256, 256, 256});
  std::ifstream kept(matmul_cache_file());
  std::string line;
  for (const MatmulLibrary library : matmul_libraries()) {
    if (library == MatmulLibrary::blas) continue;
    ASSERT_TRUE(std::getline(kept, line));
    EXPECT_EQ(line.rfind(name_of(library) + std::string(" M 256 N 256 K 256 rr: "), 0), 0U) << line;
  }
  EXPECT_EQ(faster_library({256, 256, 256}), first);
  EXPECT_EQ(faster_library({250, 260, 256}), first);  // of the same class
  EXPECT_FALSE(std::getline(kept, line)) << line;
  EXPECT_EQ(faster_library({8, 8, 8}), MatmulLibrary::blas);  // not worth a measurement
  EXPECT_FALSE(std::getline(kept, line)) << line;
}

TEST(unit, matmul_memory_of_several_processes) {
  const TemporaryFolder folder;
  const std::string file = folder.path() + "/cache/matmul.txt";
  MatmulMemory first(file), second(file);
  EXPECT_EQ(first.find("a"), std::nullopt);
  EXPECT_EQ(first.keep("a", 2.0), 2.0);
  EXPECT_EQ(second.keep("a", 0.5), 2.0);  // measured later, so it does not count
  EXPECT_EQ(MatmulMemory(file).find("a"), 2.0);
  std::ofstream(file, std::ios::app) << "nonsense\nb: x\nc: -1\nd: nan\ne: 3\nf: 4";
  MatmulMemory third(file);
  for (const char* name : {"nonsense", "b", "c", "d", "f"})
    EXPECT_EQ(third.find(name), std::nullopt) << name;  // f's line has no end
  EXPECT_EQ(third.find("e"), 3.0);
}

TEST(unit, matmul_memory_without_a_place) {
  MatmulMemory none("");
  EXPECT_EQ(none.keep("a", 2.0), 1.0);  // another process would not know of it
  MatmulMemory unwritable("/proc/formwork/matmul.txt");
  EXPECT_EQ(unwritable.keep("a", 2.0), 1.0);
  EXPECT_EQ(unwritable.find("a"), 1.0);
}

}  // namespace
}  // namespace formwork::test

// Products of matrices by whichever of libtorch's libraries, or our own, is fastest on this
// processor.
#pragma once

#include <ATen/core/Tensor.h>

#include <compare>
#include <optional>
#include <string>
#include <vector>

namespace formwork {

using at::Tensor;

/// `blas` is what at::mm calls (MKL in PyTorch's builds for x86); `formwork` is matrix_product.h.
enum class MatmulLibrary { blas, onednn, formwork };

/// Whether this libtorch and processor have oneDNN.
bool has_onednn();
/// Those that are there; blas first.
const std::vector<MatmulLibrary>& matmul_libraries();
/// mkl, onednn or formwork.
const char* name_of(MatmulLibrary library);

/// a bᵀ + bias for float32 a [M,K], b [N,K] on the CPU, of any strides; bias [N] or undefined.
/// [M,N]. All libraries agree but for rounding; only blas has a gradient.
Tensor product_by(MatmulLibrary library, const Tensor& a, const Tensor& b, const Tensor& bias = {});

/// The sizes of a bᵀ, and whether a row of a (of b) is contiguous; a column is otherwise.
struct ProductShape {
  int64_t m = 0, n = 0, k = 0;
  bool a_rows = true, b_rows = true;
  auto operator<=>(const ProductShape&) const = default;
};

/// Which library to take for float32 products of this shape on the CPU. The environment's
/// FORMWORK_MATMUL decides where it names one; else the first product of a class (sizes to a
/// factor of 2, orders, threads) is timed by all, and the choice is kept in the user's cache
/// folder, so that later processes take the same and compute the same numbers. blas where products
/// are small or nothing can be kept. Another has to be faster by 5 %, so that noise does not
/// decide.
MatmulLibrary faster_library(const ProductShape& shape);
/// What FORMWORK_MATMUL says, if anything; refuses what is no library's name.
const std::optional<MatmulLibrary>& forced_library();
/// The same for tensors of any type, device and strides; blas where that is not the question.
MatmulLibrary faster_library(const Tensor& a, const Tensor& b);

/// a bᵀ + bias by that library: any type and device, without a gradient.
Tensor best_product(const Tensor& a, const Tensor& b, const Tensor& bias = {});

/// The file that choices are kept in; empty where there is no cache folder.
std::string matmul_cache_file();

}  // namespace formwork

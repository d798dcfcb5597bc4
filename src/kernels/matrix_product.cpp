#include "kernels/matrix_product.h"

#include <ATen/record_function.h>

#include <algorithm>
#include <vector>

#include "kernels/scratch.h"
#include "kernels/simd_levels.h"
#include "kernels/turns.h"

namespace formwork::cpu {
namespace {

using at::Tensor;

/// Terms at once: a strip of the right matrix this long is half of a first cache, and the result is
/// read and written once for all of them.
constexpr int64_t kTermsAtOnce = 384;
/// Rows of the left matrix that a thread packs at once, for its second cache; all strips divide
/// them. Fewer where there would be too few blocks for the threads.
constexpr int64_t kMostRows = 96, kLeastRows = 24;
/// Rows of the right matrix that are packed at once, for all threads.
constexpr int64_t kRightAtOnce = 4096;

int64_t round_up(int64_t n, int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

StridedMatrix strided(const Tensor& x) {
  return {x.const_data_ptr<float>(), x.stride(0), x.stride(1)};
}

StridedMatrix from_place(const StridedMatrix& x, int64_t row, int64_t term) {
  return {x.data + row * x.row_stride + term * x.term_stride, x.row_stride, x.term_stride};
}

struct Piece {
  int64_t column, columns, term, terms;
  bool begin;
};

class Product {
 public:
  Product(const Tensor& a, const Tensor& b, const Tensor& bias, const Tensor& result)
      : pieces_(*simd_levels().front().pieces),
        a_(strided(a)),
        b_(strided(b)),
        bias_(bias.defined() ? bias.const_data_ptr<float>() : nullptr),
        rows_(a.size(0)),
        columns_(b.size(0)),
        terms_(a.size(1)),
        to_(result.data_ptr<float>()) {
    const int64_t shares = 2 * at::get_num_threads();
    block_ = std::clamp(round_up((rows_ + shares - 1) / shares, 12), kLeastRows, kMostRows);
  }

  void run() const {
    const int64_t parts = std::max<int64_t>(1, (terms_ + kTermsAtOnce - 1) / kTermsAtOnce);
    const Scratch right(round_up(std::min(columns_, kRightAtOnce), pieces_.right_rows) *
                        ((terms_ + parts - 1) / parts));
    for (int64_t column = 0; column < columns_; column += kRightAtOnce)
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t term = terms_ * part / parts;
        const Piece piece{column, std::min(kRightAtOnce, columns_ - column), term,
                          terms_ * (part + 1) / parts - term, part == 0};
        pack_right(piece, right.data());
        multiply(piece, right.data());
      }
  }

 private:
  void pack_right(const Piece& p, float* to) const {
    const int64_t at_once = 256;  // whole strips, and long runs where rows lie side by side
    in_turns((p.columns + at_once - 1) / at_once, [] { return 0; },
             [&](int, int64_t item) {
               const int64_t first = item * at_once;
               pieces_.pack_right(from_place(b_, p.column + first, p.term),
                                  std::min(at_once, p.columns - first), p.terms,
                                  to + first * p.terms);
             });
  }

  void multiply(const Piece& p, const float* right) const {
    in_turns((rows_ + block_ - 1) / block_, [&] { return Scratch(block_ * p.terms); },
             [&](const Scratch& left, int64_t item) {
               const int64_t row = item * block_, count = std::min(block_, rows_ - row);
               pieces_.pack_left(from_place(a_, row, p.term), count, p.terms, left.data());
               pieces_.multiply(left.data(), count, right, p.columns, p.terms, p.begin,
                                bias_ ? bias_ + p.column : nullptr, to_ + row * columns_ + p.column,
                                columns_);
             });
  }

  const MatrixPieces& pieces_;
  StridedMatrix a_, b_;
  const float* bias_;
  int64_t rows_, columns_, terms_, block_;
  float* to_;
};

}  // namespace

Tensor matrix_product(const Tensor& a, const Tensor& b, const Tensor& bias) {
  RECORD_FUNCTION("formwork::matrix_product", std::vector<c10::IValue>({a, b.t()}));
  const Tensor result = at::empty({a.size(0), b.size(0)}, a.options());
  if (result.numel() > 0) Product(a, b, bias, result).run();
  return result;
}

}  // namespace formwork::cpu

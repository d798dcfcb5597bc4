// Four rows of four numbers and their transposition. Only files of this folder include it.
#pragma once

#include "kernels/simd/vector.h"

namespace formwork::FORMWORK_SIMD {

typedef float Four __attribute__((vector_size(16)));
typedef int32_t FourIndices __attribute__((vector_size(16)));

/// Four rows of four numbers, turned to columns.
struct Square {
  Four rows[4];

  void transpose() {
    const FourIndices low{0, 4, 1, 5}, high{2, 6, 3, 7};
    const Four a = __builtin_shuffle(rows[0], rows[2], low);
    const Four b = __builtin_shuffle(rows[0], rows[2], high);
    const Four c = __builtin_shuffle(rows[1], rows[3], low);
    const Four d = __builtin_shuffle(rows[1], rows[3], high);
    rows[0] = __builtin_shuffle(a, c, low);
    rows[1] = __builtin_shuffle(a, c, high);
    rows[2] = __builtin_shuffle(b, d, low);
    rows[3] = __builtin_shuffle(b, d, high);
  }
};

}  // namespace formwork::FORMWORK_SIMD

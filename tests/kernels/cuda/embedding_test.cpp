#include "kernels/cuda/emulated.h"
//
#include <gtest/gtest.h>

#include "kernels/cuda/embedding.cu"
#include "kernels/cuda/embedding_checks.h"

namespace formwork::emulated {
namespace {

TEST(property, cuda_embedding_equals_float64) {
  expect_good(check_segment_sums);
}

}  // namespace
}  // namespace formwork::emulated

#include "kernels/cuda/emulated.h"
//
#include <gtest/gtest.h>

#include "kernels/cuda/packed_linear.cu"
#include "kernels/cuda/packed_linear_checks.h"

namespace formwork::emulated {
namespace {

TEST(property, cuda_packed_linear_equals_float64) {
  expect_good(check_packed_linear);
}

}  // namespace
}  // namespace formwork::emulated

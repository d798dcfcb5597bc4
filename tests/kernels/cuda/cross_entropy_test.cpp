#include "kernels/cuda/emulated.h"
//
#include <gtest/gtest.h>

#include "kernels/cuda/cross_entropy.cu"
#include "kernels/cuda/cross_entropy_checks.h"

namespace formwork::emulated {
namespace {

TEST(property, cuda_cross_entropy_equals_float64) {
  expect_good(check_cross_entropy);
}

}  // namespace
}  // namespace formwork::emulated

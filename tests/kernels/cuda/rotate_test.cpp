#include "kernels/cuda/emulated.h"
//
#include <gtest/gtest.h>

#include "kernels/cuda/rotate.cu"
#include "kernels/cuda/rotate_checks.h"

namespace formwork::emulated {
namespace {

TEST(property, cuda_rotate_equals_float64) {
  expect_good(check_rotations);
}

}  // namespace
}  // namespace formwork::emulated

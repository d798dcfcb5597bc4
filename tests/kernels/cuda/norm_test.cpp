#include "kernels/cuda/emulated.h"
//
#include <gtest/gtest.h>

#include "kernels/cuda/norm.cu"
#include "kernels/cuda/norm_checks.h"

namespace formwork::emulated {
namespace {

TEST(property, cuda_norm_equals_float64) {
  expect_good(check_norms);
}

}  // namespace
}  // namespace formwork::emulated

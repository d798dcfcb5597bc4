#include "kernels/cuda/emulated.h"
//
#include <gtest/gtest.h>

#include "kernels/cuda/glu.cu"
#include "kernels/cuda/glu_checks.h"

namespace formwork::emulated {
namespace {

TEST(property, cuda_glu_equals_float64) {
  expect_good(check_glu);
}

}  // namespace
}  // namespace formwork::emulated

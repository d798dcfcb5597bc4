#include "kernels/cuda/emulated.h"
//
#include <gtest/gtest.h>

#include "kernels/cuda/optimizer.cu"
#include "kernels/cuda/optimizer_checks.h"

namespace formwork::emulated {
namespace {

TEST(property, cuda_optimizer_equals_float64) {
  expect_good(check_optimizer);
}

}  // namespace
}  // namespace formwork::emulated

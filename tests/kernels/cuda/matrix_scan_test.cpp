#include "kernels/cuda/emulated.h"
//
#include <gtest/gtest.h>

#include "kernels/cuda/matrix_scan.cu"
#include "kernels/cuda/matrix_scan_checks.h"

namespace formwork::emulated {
namespace {

TEST(property, cuda_matrix_scan_equals_float64) {
  expect_good(check_matrix_scan);
}

}  // namespace
}  // namespace formwork::emulated

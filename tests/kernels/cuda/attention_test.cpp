#include "kernels/cuda/emulated.h"
//
#include <gtest/gtest.h>

#include "kernels/cuda/attention.cu"
#include "kernels/cuda/attention_checks.h"

namespace formwork::emulated {
namespace {

TEST(property, cuda_attention_equals_float64) {
  expect_good(check_attention);
}

}  // namespace
}  // namespace formwork::emulated

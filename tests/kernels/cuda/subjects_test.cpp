#include "kernels/cuda/emulated.h"
//
#include <gtest/gtest.h>

#include "kernels/cuda/subjects.h"

namespace formwork::emulated {
namespace {

TEST(property, cuda_bench_subjects_run) {
  if (!emulates()) GTEST_SKIP() << "ThreadSanitizer does not follow fibers";
  run_in_order(Order::ascending);
  for (const auto& make : subjects()) {
    const Subject subject = make(256);
    EXPECT_EQ(subject.run(), 0) << subject.name;
    EXPECT_GT(subject.bytes, 0.0) << subject.name;
  }
}

}  // namespace
}  // namespace formwork::emulated

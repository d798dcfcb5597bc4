#include "support/compare.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace formwork::test {

void expect_near(const char* what, const Tensor& a, const Tensor& b, double tolerance) {
  ASSERT_EQ(a.sizes(), b.sizes()) << what;
  if (a.numel() == 0) return;
  const double gap = (a - b).abs().max().item<double>();
  EXPECT_TRUE(gap <= tolerance) << what << " differs by " << gap;
}

void expect_same_bits(const char* what, const Tensor& a, const Tensor& b) {
  ASSERT_EQ(a.sizes(), b.sizes()) << what;
  const Tensor same = a.eq(b).logical_or(a.ne(a).logical_and(b.ne(b)));
  EXPECT_TRUE(same.all().item<bool>() && at::signbit(a).equal(at::signbit(b))) << what;
}

void expect_refused(const std::function<void()>& body, const std::string& part) {
  try {
    body();
    ADD_FAILURE() << "was accepted, though an error about '" << part << "' was due";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

}  // namespace formwork::test

#include "kernels/cuda/emulated.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace formwork::emulated {

void* device_allocate(size_t bytes) {
  return std::malloc(bytes);
}
void device_free(void* memory) {
  std::free(memory);
}
void copy_to_device(void* to, const void* from, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}
void copy_from_device(void* to, const void* from, size_t bytes) {
  copy_to_device(to, from, bytes);
}

bool emulates() {
#ifdef __SANITIZE_THREAD__
  return false;  // it does not know fibers, and there is one thread only
#else
  return true;
#endif
}

void expect_good(void (*checks)(Report&)) {
  if (!emulates()) GTEST_SKIP() << "ThreadSanitizer does not follow fibers";
  for (const Order order : {Order::ascending, Order::descending}) {
    run_in_order(order);
    Report report;
    checks(report);
    EXPECT_FALSE(report.findings.empty());
    for (const Finding& finding : report.findings)
      EXPECT_TRUE(finding.good()) << finding.what << ": error " << finding.error << ", limit "
                                  << finding.limit;
  }
}

}  // namespace formwork::emulated

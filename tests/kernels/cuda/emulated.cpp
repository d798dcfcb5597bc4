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

void expect_good(void (*checks)(Report&)) {
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

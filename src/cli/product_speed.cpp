#include "cli/product_speed.h"

#include <algorithm>

#include "cli/timing.h"
#include "core/random.h"
#include "kernels/matmul.h"
#include "methods/module.h"

namespace formwork {
namespace {

constexpr int64_t kMeteredSize = 2048;

}  // namespace

ProductMeter::ProductMeter()
    : a_(normal_tensor({kMeteredSize, kMeteredSize}, 1.0, RandomStream(1).child("a"))),
      b_(normal_tensor({kMeteredSize, kMeteredSize}, 1.0, RandomStream(1).child("b"))) {
  measure();  // libraries prepare on their first call
  best_ = 0.0;
}

double ProductMeter::measure() {
  const double operations = 2.0 * static_cast<double>(kMeteredSize * kMeteredSize * kMeteredSize);
  for (const MatmulLibrary library : matmul_libraries()) {
    const double start = milliseconds();
    product_by(library, a_, b_);
    best_ = std::max(best_, operations / (milliseconds() - start) / 1e6);
  }
  return best_;
}

}  // namespace formwork

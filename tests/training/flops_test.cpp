// Operations of a pass, counted as the dispatcher sees them.
#include "training/flops.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "kernels/matmul.h"
#include "support/temporary_folder.h"

namespace formwork::test {
namespace {

TEST(unit, flops_of_products_by_any_library) {
  const Tensor a = at::ones({20, 30}), b = at::ones({40, 30});
  for (const MatmulLibrary library : matmul_libraries()) {
    const FlopCounter counter;
    product_by(library, a, b);
    EXPECT_EQ(counter.count(), 2.0 * 20 * 30 * 40) << name_of(library);
  }
}

TEST(unit, flops_leave_out_what_is_measured_to_choose_a_library) {
  const TemporaryFolder folder;
  ::setenv("XDG_CACHE_HOME", folder.path().c_str(), 1);
  ::unsetenv("FORMWORK_MATMUL");
  const Tensor a = at::ones({256, 256}), b = at::ones({256, 256});
  for (int pass = 0; pass < 2; ++pass) {  // the first measures
    const FlopCounter counter;
    best_product(a, b);
    EXPECT_EQ(counter.count(), 2.0 * 256 * 256 * 256) << pass;
  }
}

}  // namespace
}  // namespace formwork::test

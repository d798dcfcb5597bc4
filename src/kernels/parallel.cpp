#include "kernels/parallel.h"

#include <ATen/Parallel.h>

namespace formwork {

void in_parallel(int64_t count, const std::function<void(int64_t, int64_t)>& body) {
  at::parallel_for(0, count, 1, body);
}

}  // namespace formwork

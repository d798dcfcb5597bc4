#include "kernels/row_sums.h"

#include "kernels/cuda/binding.h"

namespace formwork {

at::Tensor coalesced(const at::Tensor& sparse) {
  if constexpr (gpu::kBuilt)
    if (gpu::serves_row_sums(sparse)) return gpu::coalesced(sparse);
  return sparse.coalesce();
}

}  // namespace formwork

#include "methods/wiring/wiring.h"

#include "methods/dropout.h"

namespace formwork {

Tensor Wiring::drop(const Tensor& branch) const {
  return dropped(branch, dropout_, training());
}

Tensor Wiring::add(Stream& stream, const Tensor& residual, const Tensor& branch) const {
  const Tensor kept = drop(branch);
  if (residual.size(1) == kept.size(1)) return residual + kept;
  const Tensor sum = stream.resample(residual) + kept;
  stream.resample = nullptr;
  return sum;
}

}  // namespace formwork

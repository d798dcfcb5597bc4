#include "kernels/rotate.h"

namespace formwork {

at::Tensor rotate_pairs_reference(const at::Tensor& x, const at::Tensor& cosine,
                                  const at::Tensor& sine, Pairing pairing) {
  const int64_t half = cosine.size(-1);
  const int64_t width = x.size(-1);
  const at::Tensor c = cosine.to(x.scalar_type()), z = sine.to(x.scalar_type());
  const at::Tensor rest = x.narrow(-1, 2 * half, width - 2 * half);
  if (pairing == Pairing::half) {
    const at::Tensor r = x.narrow(-1, 0, half), s = x.narrow(-1, half, half);
    return at::cat({r * c - s * z, s * c + r * z, rest}, -1);
  }
  const at::Tensor r = x.slice(-1, 0, 2 * half, 2), s = x.slice(-1, 1, 2 * half, 2);
  const at::Tensor pairs = at::stack({r * c - s * z, s * c + r * z}, -1);
  return at::cat({pairs.flatten(-2), rest}, -1);
}

}  // namespace formwork

#include "kernels/channels.h"
#include "kernels/rows.h"

namespace formwork {

ChannelSums channel_sums_reference(const at::Tensor& g, const at::Tensor& x,
                                   const at::Tensor& centre, const at::Tensor& valid) {
  const auto rows = [&](const at::Tensor& tensor) {
    const at::Tensor wide =
        tensor.to(accumulator_type(x)).reshape({-1, std::max<int64_t>(1, x.size(-1))});
    return valid.defined() ? wide.index({valid.reshape({-1})}) : wide;
  };
  const at::Tensor centred = centre.defined() ? rows(x) - centre : rows(x);
  const at::Tensor left = g.defined() ? rows(g) : centred;
  return {(left * centred).sum(0), left.sum(0)};
}

at::Tensor channel_combine_reference(const at::Tensor& g, const at::Tensor& g_factor,
                                     const at::Tensor& x, const at::Tensor& x_factor,
                                     const at::Tensor& shift) {
  at::Tensor y = g.to(accumulator_type(g)) * g_factor;
  if (x.defined()) y = y + x.to(accumulator_type(g)) * x_factor;
  if (shift.defined()) y = y + shift;
  return y.to(g.scalar_type());
}

}  // namespace formwork

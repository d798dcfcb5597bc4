#include "kernels/channels.h"

#include "kernels/rows.h"

namespace formwork {
namespace {

using at::Tensor;

bool served_here(const Tensor& x) {
  return x.device().is_cpu() && x.dim() > 0 && x.size(-1) > 0;
}

/// A vector over the channels in the type that x is computed in.
Tensor widened(const Tensor& vector, const Tensor& x) {
  return vector.defined() ? vector.to(accumulator_type(x)).contiguous() : vector;
}

Tensor laid_out(const Tensor& x) {
  return x.defined() ? x.contiguous() : x;
}

ChannelSums sums(const Tensor& g, const Tensor& x, const Tensor& centre, const Tensor& valid) {
  const bool alike = !g.defined() || g.scalar_type() == x.scalar_type();
  if (!served_here(x) || !alike) return channel_sums_reference(g, x, centre, valid);
  return cpu::channel_sums(laid_out(g), x.contiguous(), widened(centre, x), laid_out(valid));
}

}  // namespace

ChannelSums channel_moments(const Tensor& x, const Tensor& centre, const Tensor& valid) {
  return sums({}, x, centre, valid);
}

ChannelSums channel_products(const Tensor& g, const Tensor& x, const Tensor& centre,
                             const Tensor& valid) {
  return sums(g, x, centre, valid);
}

Tensor channel_scale(const Tensor& x, const Tensor& factor, const Tensor& shift) {
  return channel_combine(x, factor, {}, {}, shift);
}

Tensor channel_combine(const Tensor& g, const Tensor& g_factor, const Tensor& x,
                       const Tensor& x_factor, const Tensor& shift) {
  const bool alike = !x.defined() || g.scalar_type() == x.scalar_type();
  if (!served_here(g) || !alike) return channel_combine_reference(g, g_factor, x, x_factor, shift);
  return cpu::channel_combine(g.contiguous(), widened(g_factor, g), laid_out(x),
                              widened(x_factor, g), widened(shift, g));
}

}  // namespace formwork

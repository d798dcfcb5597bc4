#include "methods/mixer/complex_pairs.h"

#include <ATen/ExpandUtils.h>

#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

namespace formwork {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Halves {
  Tensor first, second;
};
Halves halves(const Tensor& x) {
  const int64_t pairs = x.size(-1) / 2;
  return {x.narrow(-1, 0, pairs), x.narrow(-1, pairs, pairs)};
}
Tensor phase_of(const Halves& x) {
  return at::atan2(x.second, x.first);
}
/// 1/x, and 0 where x is 0.
Tensor inverse_or_zero(const Tensor& x) {
  return x.reciprocal().masked_fill(x == 0, 0);
}
/// The sum of x to the shape of `like`, which broadcast to it.
Tensor sum_to(const Tensor& x, const Tensor& like) {
  return at::sum_to(x, like.sizes());
}

struct Gradients {
  Tensor x, delta, shift;
};
/// Of turn_phases(x) = y, from the gradient g of y: dt = u dw - w du, and d|x| = (u du + w dw)/|x|.
Gradients gradients_of(const Tensor& g, const Tensor& x, const Tensor& delta, const Tensor& shift,
                       const Tensor& y, const Tensor& phase, const PairOptions& options) {
  const auto [r, s] = halves(x);
  const auto [u, w] = halves(y);
  const auto [du, dw] = halves(g);
  const Tensor square = r * r + s * s;
  const Tensor turn = u * dw - w * du;
  const Tensor radial = (u * du + w * dw) * inverse_or_zero(square + options.magnitude_eps);
  const Tensor around = delta * turn * inverse_or_zero(square + options.phase_eps);
  return {at::cat({radial * r - around * s, radial * s + around * r}, -1),
          sum_to(turn * phase, delta), sum_to(turn, shift)};
}

struct TurnPhases : torch::autograd::Function<TurnPhases> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& delta,
                        const Tensor& shift, double magnitude_eps, double phase_eps) {
    const auto parts = halves(x);
    const auto& [r, s] = parts;
    const Tensor phase = phase_of(parts);
    const Tensor angle = at::mul(phase, delta).add_(shift);
    const Tensor magnitude = at::mul(r, r).addcmul_(s, s).add_(magnitude_eps).sqrt_();
    const Tensor y = at::empty(x.sizes(), x.options());
    auto [u, w] = halves(y);
    at::mul_out(u, magnitude, angle.cos());
    at::mul_out(w, magnitude, angle.sin());
    context->saved_data["magnitude_eps"] = magnitude_eps;
    context->saved_data["phase_eps"] = phase_eps;
    context->save_for_backward({x, delta, shift, y, phase});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& given) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &delta = saved[1], &shift = saved[2];
    Tensor y = saved[3], phase = saved[4];
    const PairOptions options{context->saved_data["magnitude_eps"].toDouble(),
                              context->saved_data["phase_eps"].toDouble()};
    if (c10::GradMode::is_enabled()) {  // somebody will differentiate the gradient again
      y = turn_phases_reference(x, delta, shift, options);
      phase = phase_of(halves(x));
    }
    const Gradients found = gradients_of(given[0], x, delta, shift, y, phase, options);
    return {found.x, found.delta, found.shift, Tensor(), Tensor()};
  }
};

}  // namespace

Tensor turn_phases(const Tensor& x, const Tensor& delta, const Tensor& shift,
                   const PairOptions& options) {
  return TurnPhases::apply(x, delta, shift, options.magnitude_eps, options.phase_eps);
}

Tensor turn_phases_reference(const Tensor& x, const Tensor& delta, const Tensor& shift,
                             const PairOptions& options) {
  const auto parts = halves(x);
  const auto& [r, s] = parts;
  const Tensor angle = delta * phase_of(parts) + shift;
  const Tensor magnitude = (r * r + s * s + options.magnitude_eps).sqrt();
  return at::cat({magnitude * angle.cos(), magnitude * angle.sin()}, -1);
}

Tensor turn_pairs(const Tensor& x, const Tensor& shift, const PairOptions& options) {
  auto [r, s] = halves(x);
  const Tensor cosine = shift.cos(), sine = shift.sin();
  if (options.magnitude_eps == 0.0)
    return at::cat({r * cosine - s * sine, r * sine + s * cosine}, -1);
  const Tensor square = r * r + s * s;
  const Tensor zero = square == 0;
  const Tensor stretch = ((square + options.magnitude_eps) / square.masked_fill(zero, 1)).sqrt();
  r = r.masked_fill(zero, 1);
  return at::cat({(r * cosine - s * sine) * stretch, (r * sine + s * cosine) * stretch}, -1);
}

Tensor pairwise_scores(const Tensor& q, const Tensor& k, const Tensor& delta, const Tensor& shift,
                       const Tensor& query_angles, const Tensor& key_angles,
                       const PairOptions& options) {
  const int64_t groups = q.size(1) / k.size(1);
  const auto spread = [&](const Tensor& x, int64_t dim) {
    return groups == 1 ? x : x.repeat_interleave(groups, dim);
  };
  const auto polar = [&](const Tensor& x) {
    const auto parts = halves(x);
    const auto& [r, s] = parts;
    return Halves{(r * r + s * s + options.magnitude_eps).sqrt(), phase_of(parts)};
  };
  const auto [query_size, query_phase] = polar(q);
  const auto [key_size, key_phase] = polar(spread(k, 1));
  const auto rows = [](const Tensor& x) { return x.unsqueeze(3); };
  const auto columns = [](const Tensor& x) { return x.unsqueeze(2); };
  const Tensor semantic = rows(query_phase) - columns(key_phase);
  const Tensor distance = rows(query_angles) - columns(key_angles);
  const Tensor angle = spread(delta, 0).unsqueeze(2) * semantic + shift.unsqueeze(2) + distance;
  return (rows(query_size) * columns(key_size) * angle.cos()).sum(-1);
}

}  // namespace formwork

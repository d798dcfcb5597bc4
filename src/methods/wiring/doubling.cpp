#include "methods/wiring/doubling.h"

namespace formwork {

FlowAndForce doubling_step(const DoublingStep& step, const Tensor& x0, const Tensor& p0) {
  Tensor x = x0, p = p0, x2 = x0, p2 = p0;
  const auto pushed = [&](const Tensor& momentum, const Tensor& force) {
    const Tensor sum = momentum + step.half_p * force;
    return step.after ? step.after(sum) : sum;
  };
  // Either copy's clock: half a step after each of its moves.
  const auto a = [&](int ticks) {
    const auto [flow, force] = step.oracle(x, p2, ticks);
    p = pushed(p, force);
    x2 = x2 + step.half_x * flow;
  };
  const auto b = [&](int ticks) {
    const auto [flow, force] = step.oracle(x2, p, ticks);
    x = x + step.half_x * flow;
    p2 = pushed(p2, force);
  };
  a(0);
  b(1);
  const Tensor c = step.angle.cos(), s = step.angle.sin();
  const Tensor d = x - x2, e = p - p2, sum_x = x + x2, sum_p = p + p2;
  const Tensor turned_x = c * d + s * e, turned_p = c * e - s * d;
  x = 0.5 * (sum_x + turned_x);
  x2 = 0.5 * (sum_x - turned_x);
  p = 0.5 * (sum_p + turned_p);
  p2 = 0.5 * (sum_p - turned_p);
  if (step.after) {
    p = step.after(p);
    p2 = step.after(p2);
  }
  b(1);
  a(2);
  return {x, p};
}

}  // namespace formwork

// A second-order step of a flow whose energy does not split into position and momentum.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <utility>

namespace formwork {

using at::Tensor;

/// Flow and force.
using FlowAndForce = std::pair<Tensor, Tensor>;

struct DoublingStep {
  Tensor half_x, half_p;  // half the step sizes
  Tensor angle;           // by which the two copies are turned towards each other
  /// (F, G) at the position x and momentum p, after `ticks` of two half steps of time.
  std::function<FlowAndForce(const Tensor& x, const Tensor& p, int ticks)> oracle;
  /// Applied to every momentum that was changed; null = nothing.
  std::function<Tensor(const Tensor& p)> after;
};

/// Two copies (x, p) and (x', p') of the state, each moved by the forces at the other's: A moves p
/// and x', B moves x and p', C turns the copies; A B C B A, four evaluations. Returns (x, p).
/// Tao 2016, arXiv 1609.02212.
FlowAndForce doubling_step(const DoublingStep& step, const Tensor& x, const Tensor& p);

}  // namespace formwork

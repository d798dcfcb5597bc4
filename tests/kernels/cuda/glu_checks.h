// Gated linear units by the kernel against float64.
#pragma once

#include "kernels/cuda/device_array.h"
#include "kernels/cuda/glu.h"

namespace formwork::FORMWORK_CUDA {

inline double gate_value(Gate gate, double x) {
  switch (gate) {
    case Gate::silu:
      return x / (1 + std::exp(-x));
    case Gate::gelu:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Gate::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case Gate::relu:
      return std::max(x, 0.0);
    case Gate::sigmoid:
      return 1 / (1 + std::exp(-x));
    default:
      return x;
  }
}

/// gate and up are halves of rows where `halves`, else arrays of their own.
inline void check_glu(Report& report, int64_t rows, int64_t width, bool halves, Gate gate,
                      Element element) {
  Draw draw(static_cast<uint64_t>(rows * 100 + width));
  const int64_t stride = halves ? 2 * width : width, count = rows * width;
  const Numbers both(element, draw.normal(2 * count, 2.0)), g(element, draw.normal(count)),
      y(element, count), slopes(element, 2 * count);
  const int64_t up = halves ? width : count;
  const auto at = [&](const Numbers& numbers, int64_t place) {
    return static_cast<void*>(static_cast<char*>(numbers.data()) + place * size_of(element));
  };
  Glu a;
  a.element = element, a.function = gate, a.rows = rows, a.width = width, a.stride = stride;
  a.gate = both.data(), a.up = at(both, up), a.y = y.data();
  succeed(glu_forward(a, nullptr));
  succeed(glu_backward(a, {g.data(), slopes.data(), at(slopes, up)}, nullptr));
  std::vector<double> expected, expected_slopes(static_cast<size_t>(2 * count));
  for (int64_t i = 0; i < count; ++i) {
    const int64_t place = i / width * stride + i % width;
    const double x = both.host[static_cast<size_t>(place)], h = 1e-5;
    const double u = both.host[static_cast<size_t>(place + up)],
                 slope = g.host[static_cast<size_t>(i)];
    const double value = gate_value(gate, x);
    // relu jumps at 0 only, and no number is that near.
    const double derivative = (gate_value(gate, x + h) - gate_value(gate, x - h)) / (2 * h);
    expected.push_back(value * u);
    expected_slopes[static_cast<size_t>(place)] = slope * u * derivative;
    expected_slopes[static_cast<size_t>(place + up)] = slope * value;
  }
  const std::string name = "glu " + std::to_string(static_cast<int>(gate)) + " " +
                           std::to_string(rows) + " " + std::to_string(width) + name_of(element);
  report.compare(name + ": y", y.read(), expected, limit_of(element));
  report.compare(name + ": gradients", slopes.read(), expected_slopes, limit_of(element));
}

inline void check_glu(Report& report) {
  for (const Element element : {Element::float32, Element::bfloat16})
    for (const Gate gate :
         {Gate::silu, Gate::gelu, Gate::gelu_tanh, Gate::relu, Gate::sigmoid, Gate::identity}) {
      check_glu(report, 1, 1, false, gate, element);
      check_glu(report, 0, 16, false, gate, element);
      check_glu(report, 5, 264, true, gate, element);
      check_glu(report, 7, 33, true, gate, element);
      check_glu(report, 3, 1024, false, gate, element);
    }
}

}  // namespace formwork::FORMWORK_CUDA

// Products with packed weights by the kernel against float64.
#pragma once

#include "kernels/cuda/device_array.h"
#include "kernels/cuda/packed_linear.h"

namespace formwork::FORMWORK_CUDA {

inline void check_packed_linear(Report& report, int rows, int64_t in, int64_t out, bool int8,
                                bool biased) {
  Draw draw(static_cast<uint64_t>(in * 100 + out));
  const Numbers x(Element::float32, draw.normal(rows * in)),
      halves(Element::bfloat16, draw.normal(out * in)), bias(Element::float32, draw.normal(out)),
      y(Element::float32, rows * out);
  std::vector<int8_t> steps(static_cast<size_t>(out * in));
  for (int8_t& q : steps) q = static_cast<int8_t>(draw.below(255) - 127);
  std::vector<double> scales = draw.normal(out, 0.01);
  const Numbers scale(Element::float32, scales);
  const DeviceArray steps_there(steps);
  PackedLinear a;
  a.rows = rows, a.in = in, a.out = out, a.x = x.floats(), a.y = y.floats();
  a.weight = int8 ? steps_there.data() : halves.data();
  if (int8) a.scale = scale.floats();
  if (biased) a.bias = bias.floats();
  succeed(packed_linear(a, nullptr));
  std::vector<double> expected;
  for (int r = 0; r < rows; ++r)
    for (int64_t o = 0; o < out; ++o) {
      double sum = biased ? bias.host[static_cast<size_t>(o)] : 0.0;
      for (int64_t i = 0; i < in; ++i) {
        const auto at = static_cast<size_t>(o * in + i);
        const double w = int8 ? steps[at] * scale.host[static_cast<size_t>(o)] : halves.host[at];
        sum += w * x.host[static_cast<size_t>(r * in + i)];
      }
      expected.push_back(sum);
    }
  const std::string name = std::string("packed linear ") + (int8 ? "int8 " : "bfloat16 ") +
                           std::to_string(rows) + " " + std::to_string(in) + " " +
                           std::to_string(out);
  report.compare(name, y.read(), expected, 2e-6);
  if (rows < 2) return;
  a.rows = 1;
  const Numbers alone(Element::float32, out);
  a.y = alone.floats();
  succeed(packed_linear(a, nullptr));
  std::vector<double> first = y.read();
  first.resize(static_cast<size_t>(out));
  report.require(name + ": the first row alone is the same", alone.read() == first);
}

inline void check_packed_linear(Report& report) {
  for (const bool int8 : {true, false}) {
    check_packed_linear(report, 1, 1, 1, int8, true);
    check_packed_linear(report, 0, 16, 16, int8, true);
    check_packed_linear(report, 3, 0, 5, int8, true);
    for (int rows = 1; rows <= kFewRows; ++rows)
      check_packed_linear(report, rows, 768, 37, int8, true);
    check_packed_linear(report, 5, 131, 9, int8, false);
  }
}

}  // namespace formwork::FORMWORK_CUDA

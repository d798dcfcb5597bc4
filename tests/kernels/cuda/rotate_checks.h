// Rotations by the kernel against float64.
#pragma once

#include "kernels/cuda/device_array.h"
#include "kernels/cuda/rotate.h"

namespace formwork::FORMWORK_CUDA {

struct RotationCase {
  int64_t batch, heads, tokens;
  int width, half;
};

inline void check_rotation(Report& report, const RotationCase& c, bool interleaved, bool backwards,
                           Element element) {
  Draw draw(static_cast<uint64_t>(c.tokens * 100 + c.width));
  const int64_t count = c.batch * c.heads * c.tokens * c.width;
  const Numbers x(element, draw.normal(count)), y(element, count);
  std::vector<double> cosines, sines;
  for (const double angle : draw.normal(c.tokens * c.half, 3.0)) {
    cosines.push_back(std::cos(angle));
    sines.push_back(std::sin(angle));
  }
  const Numbers cosine(Element::float32, cosines), sine(Element::float32, sines);
  Rotation a;
  a.element = element, a.width = c.width, a.half = c.half;
  a.interleaved = interleaved, a.backwards = backwards;
  a.x = x.data(), a.y = y.data(), a.cosine = cosine.floats(), a.sine = sine.floats();
  const int64_t row = c.heads * c.width;
  const int64_t sizes[3] = {c.batch, c.heads, c.tokens};
  const int64_t x_stride[3] = {row * c.tokens, c.width, row};  // lies as [B,N,H,K]
  const int64_t y_stride[3] = {row * c.tokens, c.tokens * c.width, c.width};
  const int64_t table[3] = {0, 0, c.half};
  std::copy(sizes, sizes + 3, a.sizes);
  std::copy(x_stride, x_stride + 3, a.x_stride);
  std::copy(y_stride, y_stride + 3, a.y_stride);
  std::copy(table, table + 3, a.table_stride);
  succeed(rotate(a, nullptr));
  std::vector<double> expected(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; i += c.width) {
    const int64_t token = i / c.width % c.tokens, head = i / c.width / c.tokens % c.heads;
    const int64_t b = i / c.width / c.tokens / c.heads;
    const double* from =
        &x.host[static_cast<size_t>(b * x_stride[0] + head * x_stride[1] + token * x_stride[2])];
    double* to = &expected[static_cast<size_t>(i)];
    std::copy(from, from + c.width, to);
    for (int p = 0; p < c.half; ++p) {
      const int first = interleaved ? 2 * p : p, second = interleaved ? 2 * p + 1 : p + c.half;
      const size_t angle = static_cast<size_t>(token * c.half + p);
      const double z = backwards ? -sine.host[angle] : sine.host[angle];
      to[first] = from[first] * cosine.host[angle] - from[second] * z;
      to[second] = from[second] * cosine.host[angle] + from[first] * z;
    }
  }
  report.compare("rotate " + std::to_string(c.width) + " " + std::to_string(c.half) +
                     (interleaved ? " interleaved" : "") + (backwards ? " backwards" : "") +
                     name_of(element),
                 y.read(), expected, limit_of(element));
}

inline void check_rotations(Report& report) {
  for (const RotationCase& c : std::vector<RotationCase>{{1, 1, 1, 2, 1},
                                                         {2, 3, 0, 16, 8},
                                                         {2, 3, 17, 64, 32},
                                                         {2, 2, 9, 64, 16},
                                                         {1, 3, 5, 21, 7}})
    for (const Element element : {Element::float32, Element::bfloat16})
      for (const bool interleaved : {false, true})
        for (const bool backwards : {false, true})
          check_rotation(report, c, interleaved, backwards, element);
}

}  // namespace formwork::FORMWORK_CUDA

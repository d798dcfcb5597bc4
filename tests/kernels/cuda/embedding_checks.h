// The gradient of an embedding by the kernel against float64.
#pragma once

#include "kernels/cuda/device_array.h"
#include "kernels/cuda/embedding.h"

namespace formwork::FORMWORK_CUDA {

inline void check_segment_sums(Report& report, int64_t places, int64_t vocabulary, int64_t width,
                               Element element) {
  Draw draw(static_cast<uint64_t>(places + width));
  const Numbers gradient(element, draw.normal(places * width));
  std::vector<int64_t> tokens(static_cast<size_t>(places)), order(tokens.size()), starts;
  for (int64_t& t : tokens) t = draw.below(vocabulary);
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return tokens[static_cast<size_t>(a)] < tokens[static_cast<size_t>(b)];
  });
  std::vector<double> expected;
  for (int64_t i = 0; i < places; ++i) {
    const int64_t at = order[static_cast<size_t>(i)];
    if (i == 0 || tokens[static_cast<size_t>(at)] !=
                      tokens[static_cast<size_t>(order[static_cast<size_t>(i - 1)])]) {
      starts.push_back(i);
      expected.resize(expected.size() + static_cast<size_t>(width), 0.0);
    }
    double* row = expected.data() + expected.size() - width;
    for (int64_t c = 0; c < width; ++c)
      row[c] += gradient.host[static_cast<size_t>(at * width + c)];
  }
  const auto segments = static_cast<int64_t>(starts.size());
  starts.push_back(places);
  const DeviceArray order_there(order), starts_there(starts);
  const Numbers rows(Element::float32, segments * width);
  SegmentSums a;
  a.element = element, a.segments = segments, a.width = width, a.gradient = gradient.data();
  a.order = order_there.as<int64_t>(), a.starts = starts_there.as<int64_t>(),
  a.rows = rows.floats();
  succeed(segment_sums(a, nullptr));
  report.compare("embedding gradient " + std::to_string(places) + " " + std::to_string(width) +
                     name_of(element),
                 rows.read(), expected, 2e-6);
}

inline void check_segment_sums(Report& report) {
  for (const Element element : {Element::float32, Element::bfloat16}) {
    check_segment_sums(report, 1, 5, 1, element);
    check_segment_sums(report, 0, 5, 8, element);
    check_segment_sums(report, 100, 4, 72, element);
    check_segment_sums(report, 50, 30, 33, element);
    check_segment_sums(report, 60, 20, 1032, element);
  }
}

}  // namespace formwork::FORMWORK_CUDA

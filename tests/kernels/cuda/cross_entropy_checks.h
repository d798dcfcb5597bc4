// Cross-entropy by the kernel against float64.
#pragma once

#include "kernels/cuda/cross_entropy.h"
#include "kernels/cuda/device_array.h"

namespace formwork::FORMWORK_CUDA {

struct CrossEntropyCase {
  int64_t rows, classes, gap;  // rows are classes + gap apart
  double smoothing, z_loss;
};

inline void check_cross_entropy(Report& report, const CrossEntropyCase& c, Element element) {
  Draw draw(static_cast<uint64_t>(c.rows * 100 + c.classes));
  const int64_t stride = c.classes + c.gap;
  const Numbers logits(element, draw.normal(c.rows * stride, 4.0)),
      losses(Element::float32, c.rows);
  std::vector<int64_t> target(static_cast<size_t>(c.rows));
  for (int64_t& t : target) t = draw.below(c.classes + 1) - 1;  // some are not counted
  if (c.rows > 1) target[1] = -1;
  const DeviceArray target_there(target);
  CrossEntropy a;
  a.element = element, a.rows = c.rows, a.classes = c.classes, a.stride = stride;
  a.logits = logits.data(), a.target = target_there.as<int64_t>(), a.losses = losses.floats();
  a.smoothing = static_cast<float>(c.smoothing), a.z_loss = static_cast<float>(c.z_loss);
  a.differentiate = false;
  succeed(cross_entropy(a, nullptr));
  const std::vector<double> first_losses = losses.read(), untouched = logits.read();
  a.differentiate = true;
  succeed(cross_entropy(a, nullptr));

  std::vector<double> expected_losses, expected = logits.host;
  for (int64_t r = 0; r < c.rows; ++r) {
    double* l = &expected[static_cast<size_t>(r * stride)];
    const int64_t t = target[static_cast<size_t>(r)];
    const double most = *std::max_element(l, l + c.classes);
    const double mean = std::accumulate(l, l + c.classes, 0.0) / static_cast<double>(c.classes);
    double sum = 0.0;
    for (int64_t i = 0; i < c.classes; ++i) sum += std::exp(l[i] - most);
    const double lse = most + std::log(sum);
    expected_losses.push_back(
        t < 0 ? 0.0 : lse - (1 - c.smoothing) * l[t] - c.smoothing * mean + c.z_loss * lse * lse);
    for (int64_t i = 0; i < c.classes; ++i)
      l[i] = t < 0 ? 0.0
                   : std::exp(l[i] - lse) * (1 + 2 * c.z_loss * lse) -
                         c.smoothing / static_cast<double>(c.classes) -
                         (i == t ? 1 - c.smoothing : 0.0);
  }
  const std::string name = "cross entropy " + std::to_string(c.rows) + " " +
                           std::to_string(c.classes) + name_of(element);
  report.compare(name + ": losses", losses.read(), expected_losses, 2e-6);
  report.require(name + ": losses alone are the same", first_losses == losses.read());
  report.require(name + ": logits stay where no gradient is wanted", untouched == logits.host);
  report.compare(name + ": gradient", logits.read(), expected, limit_of(element));
}

inline void check_cross_entropy(Report& report) {
  for (const CrossEntropyCase& c : std::vector<CrossEntropyCase>{{1, 1, 0, 0.0, 0.0},
                                                                 {0, 5, 0, 0.0, 0.0},
                                                                 {4, 7, 2, 0.1, 1e-3},
                                                                 {5, 1000, 0, 0.1, 0.0},
                                                                 {3, 5003, 5, 0.0, 1e-2},
                                                                 {3, 8192, 8, 0.2, 1e-4}})
    for (const Element element : {Element::float32, Element::bfloat16})
      check_cross_entropy(report, c, element);
}

}  // namespace formwork::FORMWORK_CUDA

// Steps over many tensors by the kernels against float64.
#pragma once

#include <memory>

#include "kernels/cuda/device_array.h"
#include "kernels/cuda/optimizer.h"

namespace formwork::FORMWORK_CUDA {

/// Empty ones, ones that 16 bytes do not divide, one of several chunks, more than one launch takes.
inline std::vector<int64_t> tensor_sizes() {
  std::vector<int64_t> sizes = {1, 0, 7, 40000, 4096};
  for (int64_t i = 0; i < 60; ++i) sizes.push_back(3 * i);
  return sizes;
}

using NumbersList = std::vector<std::unique_ptr<Numbers>>;

inline NumbersList draw_list(Draw& draw, Element element, double scale, bool positive = false) {
  NumbersList list;
  for (const int64_t size : tensor_sizes()) {
    std::vector<double> values = draw.normal(size, scale);
    if (positive)
      for (double& x : values) x = std::fabs(x);
    list.push_back(std::make_unique<Numbers>(element, values));
  }
  return list;
}

/// All of a list, one after another, as the device has it or as it was.
inline std::vector<double> joined(const NumbersList& list, bool now) {
  std::vector<double> all;
  for (const auto& numbers : list) {
    const std::vector<double> values = now ? numbers->read() : numbers->host;
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

inline void check_gradient_norm(Report& report, Element element) {
  Draw draw(3);
  const NumbersList list = draw_list(draw, element, 0.5);
  std::vector<Array> arrays;
  for (const auto& numbers : list)
    arrays.push_back({numbers->data(), static_cast<int64_t>(numbers->host.size())});
  const Numbers room(Element::float32, gradient_norm_room(arrays)), result(Element::float32, 2);
  const auto norm_with = [&](float most) {
    succeed(gradient_norm(arrays, element, most, room.floats(), result.floats(), nullptr));
    return result.read();
  };
  const std::vector<double> all = joined(list, false);
  const double norm = std::sqrt(std::inner_product(all.begin(), all.end(), all.begin(), 0.0));
  const std::string name = std::string("gradient norm") + name_of(element);
  report.compare(name + ": under the limit", norm_with(1e6f), {norm, 1.0}, 2e-6, 1e-3);
  report.compare(name + ": above it", norm_with(1.5f), {norm, 1.5 / (norm + 1e-6)}, 2e-6, 1e-3);
  succeed(scale_arrays(arrays, element, result.floats() + 1, nullptr));
  std::vector<double> scaled = all;
  for (double& x : scaled) x *= 1.5 / (norm + 1e-6);
  report.compare(name + ": scaled", joined(list, true), scaled, limit_of(element), 1e-3);
  report.compare(name + ": after it", {norm_with(1e6f)[0]}, {1.5}, limit_of(element));
}

inline void check_infinite_norm(Report& report) {
  const Numbers gradient(Element::float32, std::vector<double>{1.0, INFINITY, 2.0});
  const Numbers room(Element::float32, 1), result(Element::float32, 2);
  succeed(gradient_norm({{gradient.data(), 3}}, Element::float32, 1.0f, room.floats(),
                        result.floats(), nullptr));
  report.require("gradient norm: not finite stays",
                 result.read() == std::vector<double>{INFINITY, 1.0});
}

inline void check_adam(Report& report, const AdamStep& step, bool amsgrad) {
  Draw draw(5);
  const Element element = step.gradient_element;
  const NumbersList values = draw_list(draw, Element::float32, 1.0),
                    gradients = draw_list(draw, element, 0.3),
                    means = draw_list(draw, Element::float32, 0.1),
                    squares = draw_list(draw, Element::float32, 0.05, true),
                    largest = draw_list(draw, Element::float32, 0.05, true),
                    rounded = draw_list(draw, Element::bfloat16, 1.0);
  std::vector<AdamParameter> parameters;
  for (size_t i = 0; i < values.size(); ++i)
    parameters.push_back({values[i]->floats(), gradients[i]->data(), means[i]->floats(),
                          squares[i]->floats(), amsgrad ? largest[i]->floats() : nullptr,
                          rounded[i]->data(), static_cast<int64_t>(values[i]->host.size())});
  const Numbers factor(Element::float32, std::vector<double>{0.7});
  AdamStep with_factor = step;
  with_factor.gradient_factor = factor.floats();
  succeed(adam_step(parameters, with_factor, nullptr));

  std::vector<double> p = joined(values, false), m = joined(means, false),
                      v = joined(squares, false), top = joined(largest, false);
  const std::vector<double> g = joined(gradients, false);
  const double steps = static_cast<double>(step.count);
  for (size_t i = 0; i < p.size(); ++i) {
    double slope = g[i] * factor.host[0];
    if (step.l2)
      slope += step.decay * p[i];
    else
      p[i] *= 1 - step.rate * step.decay;
    m[i] = step.beta1 * m[i] + (1 - step.beta1) * slope;
    v[i] = step.beta2 * v[i] + (1 - step.beta2) * slope * slope;
    top[i] = std::max(top[i], v[i]);
    const double root = std::sqrt((amsgrad ? top[i] : v[i]) / (1 - std::pow(step.beta2, steps)));
    p[i] -= step.rate / (1 - std::pow(step.beta1, steps)) * m[i] / (root + step.eps);
  }
  const std::string name =
      std::string("adam") + (step.l2 ? " l2" : "") + (amsgrad ? " amsgrad" : "") + name_of(element);
  report.compare(name + ": values", joined(values, true), p, 2e-6);
  report.compare(name + ": means", joined(means, true), m, 2e-6, 0.1);
  report.compare(name + ": squares", joined(squares, true), v, 2e-6, 0.01);
  if (amsgrad) report.compare(name + ": largest", joined(largest, true), top, 2e-6, 0.01);
  report.compare(name + ": rounded", joined(rounded, true), p, 1e-2);
}

inline void check_optimizer(Report& report) {
  check_infinite_norm(report);
  for (const Element element : {Element::float32, Element::bfloat16}) {
    check_gradient_norm(report, element);
    AdamStep step;
    step.rate = 0.01, step.decay = 0.1, step.count = 3, step.gradient_element = element;
    check_adam(report, step, false);
    step.l2 = true;
    check_adam(report, step, true);
  }
}

}  // namespace formwork::FORMWORK_CUDA

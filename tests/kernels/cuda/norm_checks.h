// Norms by the kernels against float64.
#pragma once

#include "kernels/cuda/device_array.h"
#include "kernels/cuda/norm.h"

namespace formwork::FORMWORK_CUDA {

struct NormCase {
  int64_t rows;
  int width;
  bool residual = false, affine = true;
};

/// Rows for a warp and for a block, with and without vectors of 16 bytes, more rows than partial
/// sums, no row at all.
inline std::vector<NormCase> norm_cases() {
  return {
      {1, 1},          {3, 8, true},    {37, 20, true}, {0, 8, true},    {2, 1000, false, false},
      {9, 1032, true}, {5, 2059, true}, {3, 4096},      {1100, 24, true}};
}

/// One norm in float64, and its gradients for given gradients of y and of the sum.
struct NormReference {
  NormForm form;
  int64_t width;
  double eps;
  bool affine;
  std::vector<double> y, x_gradient, scale_gradient, shift_gradient;

  /// 1 / root of a row, and its derivative by channel c.
  double inverse_of(const double* x, double mean) const {
    double squares = 0.0, sum = 0.0;
    const double channels = static_cast<double>(width);
    for (int64_t c = 0; c < width; ++c) {
      squares += (x[c] - mean) * (x[c] - mean);
      sum += x[c];
    }
    if (form == NormForm::crms)
      return 1.0 / std::sqrt((squares + sum * sum) / (channels + 1) + eps);
    if (form == NormForm::at_least) return 1.0 / std::max(std::sqrt(squares / channels), eps);
    if (form == NormForm::outside) return 1.0 / (std::sqrt(squares / channels) + eps);
    return 1.0 / std::sqrt(squares / channels + eps);
  }

  void add_row(const double* x, const double* g, const double* more, const double* scale,
               const double* shift) {
    const double channels = static_cast<double>(width);
    const double mean =
        form == NormForm::layer ? std::accumulate(x, x + width, 0.0) / channels : 0.0;
    const double inverse = inverse_of(x, mean);
    double product = 0.0, level = 0.0, sum = std::accumulate(x, x + width, 0.0), squares = 0.0;
    for (int64_t c = 0; c < width; ++c) {
      const double inner = affine ? g[c] * scale[c] : g[c];
      y.push_back((x[c] - mean) * inverse * (affine ? scale[c] : 1.0) + (affine ? shift[c] : 0.0));
      product += inner * (x[c] - mean);
      level += inner;
      squares += (x[c] - mean) * (x[c] - mean);
      scale_gradient[static_cast<size_t>(c)] += g[c] * (x[c] - mean) * inverse;
      shift_gradient[static_cast<size_t>(c)] += g[c];
    }
    const double length = std::sqrt(squares / channels);
    for (int64_t c = 0; c < width; ++c) {
      double slope = -std::pow(inverse, 3) * (x[c] - mean) / channels;
      if (form == NormForm::crms) slope = -std::pow(inverse, 3) * (x[c] + sum) / (channels + 1);
      if (form == NormForm::outside) slope = -inverse * inverse * x[c] / (channels * length);
      if (form == NormForm::at_least)
        slope = length > eps ? -inverse * inverse * x[c] / (channels * length) : 0.0;
      const double inner = affine ? g[c] * scale[c] : g[c];
      double gradient = inner * inverse + product * slope + more[c];
      if (form == NormForm::layer) gradient -= level * inverse / channels;
      x_gradient.push_back(gradient);
    }
  }
};

inline void check_norm(Report& report, const NormCase& c, NormForm form, Element element) {
  Draw draw(static_cast<uint64_t>(c.rows * 100 + c.width));
  const int64_t count = c.rows * c.width;
  const Numbers x(element, draw.normal(count, 2.0)), residual(element, draw.normal(count)),
      g(element, draw.normal(count)), more(element, draw.normal(count)),
      scale(Element::float32, draw.normal(c.width)), shift(Element::float32, draw.normal(c.width)),
      sum(element, count), y(element, count), inverse(Element::float32, c.rows),
      first(Element::float32, c.rows), slope(Element::float32, c.rows);
  Norm norm;
  norm.element = element, norm.form = form, norm.rows = c.rows, norm.width = c.width;
  norm.eps = form == NormForm::at_least ? 1.9f : 1e-2f;  // some rows below it
  norm.x = x.data(), norm.y = y.data();
  if (c.residual) norm.residual = residual.data(), norm.sum = sum.data();
  if (c.affine) norm.scale = scale.floats(), norm.shift = shift.floats();
  norm.inverse = inverse.floats(), norm.first = first.floats(), norm.slope = slope.floats();
  succeed(norm_forward(norm, nullptr));

  const Numbers dx(element, count), dscale(Element::float32, c.width),
      dshift(Element::float32, c.width), partials(Element::float32, 2 * kNormPartials * c.width);
  NormGradients gradients;
  gradients.y = g.data(), gradients.x = dx.data();
  if (c.residual) gradients.sum = more.data(), norm.x = sum.data();
  if (c.affine)
    gradients.scale = dscale.floats(), gradients.shift = dshift.floats(),
    gradients.partials = partials.floats();
  succeed(norm_backward(norm, gradients, nullptr));

  const std::vector<double> normed = c.residual ? sum.read() : x.host;
  const std::vector<double> none(static_cast<size_t>(count), 0.0);
  const double* added = c.residual ? more.host.data() : none.data();
  NormReference expected{form, c.width, static_cast<double>(norm.eps), c.affine, {}, {}, {}, {}};
  expected.scale_gradient.assign(static_cast<size_t>(c.width), 0.0);
  expected.shift_gradient = expected.scale_gradient;
  for (int64_t r = 0; r < c.rows; ++r)
    expected.add_row(&normed[static_cast<size_t>(r * c.width)],
                     &g.host[static_cast<size_t>(r * c.width)], added + r * c.width,
                     scale.host.data(), shift.host.data());
  const std::string name = "norm " + std::to_string(static_cast<int>(form)) + " " +
                           std::to_string(c.rows) + " " + std::to_string(c.width) +
                           (c.residual ? " added" : "") + name_of(element);
  const double limit = limit_of(element);
  if (c.residual) {
    std::vector<double> sums(normed.size());
    for (size_t i = 0; i < sums.size(); ++i) sums[i] = x.host[i] + residual.host[i];
    report.compare(name + ": sum", normed, sums, limit);
  }
  report.compare(name + ": y", y.read(), expected.y, limit);
  report.compare(name + ": x gradient", dx.read(), expected.x_gradient, limit);
  if (!c.affine) return;
  report.compare(name + ": scale gradient", dscale.read(), expected.scale_gradient, 2e-6);
  report.compare(name + ": shift gradient", dshift.read(), expected.shift_gradient, 2e-6);
}

inline void check_norms(Report& report) {
  for (const NormCase& c : norm_cases())
    for (const NormForm form :
         {NormForm::layer, NormForm::rms, NormForm::crms, NormForm::at_least, NormForm::outside})
      for (const Element element : {Element::float32, Element::bfloat16})
        check_norm(report, c, form, element);
}

}  // namespace formwork::FORMWORK_CUDA

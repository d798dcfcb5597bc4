// Attention by the kernels against all scores in float64.
#pragma once

#include "kernels/cuda/attention.h"
#include "kernels/cuda/device_array.h"

namespace formwork::FORMWORK_CUDA {

enum class Bias { none, dense, shared, toeplitz };

struct AttentionCase {
  int batch, heads, kv_heads, queries, keys, width, value_width;
  bool causal = false, padded = false;
  int window = 0;
  Bias bias = Bias::none;

  std::string name() const {
    std::string text = "attention";
    for (const int n : {batch, heads, kv_heads, queries, keys, width, value_width})
      text += " " + std::to_string(n);
    return text + (causal ? " causal" : "") + (padded ? " padded" : "") +
           (window ? " window " + std::to_string(window) : "") +
           (bias == Bias::none ? "" : " bias " + std::to_string(static_cast<int>(bias)));
  }
};

// Sizes around the tiles' edges (64 own rows, 32 or 64 passing by, 16 rows a warp), single tokens,
// rows that 16 bytes do not divide, shared heads, more keys than queries and the other way round.
inline std::vector<AttentionCase> attention_cases() {
  return {{1, 1, 1, 1, 1, 8, 8},
          {1, 2, 2, 64, 64, 64, 64, true},
          {2, 2, 1, 65, 65, 16, 16, true},
          {1, 4, 2, 70, 70, 40, 24, true, true},
          {1, 2, 1, 130, 131, 16, 16, true},
          {2, 1, 1, 17, 130, 64, 64},
          {1, 2, 2, 63, 129, 20, 20, true},
          {2, 2, 2, 7, 5, 5, 3, false, true},
          {1, 2, 1, 100, 100, 72, 128, true},
          {1, 1, 1, 40, 20, 12, 12, true},
          {1, 1, 1, 150, 150, 32, 32, true, false, 40},
          {1, 2, 1, 80, 90, 33, 17, false, true, 70},
          {1, 1, 1, 140, 140, 16, 16, true, false, 2},
          {1, 1, 1, 140, 139, 16, 16, false, false, 65},
          {2, 2, 2, 70, 66, 24, 24, true, false, 0, Bias::dense},
          {2, 2, 2, 33, 40, 24, 24, false, false, 0, Bias::shared},
          {1, 2, 2, 70, 75, 64, 64, false, false, 0, Bias::toeplitz}};
}

/// Everything of one case in float64, scores and all.
class AttentionReference {
 public:
  AttentionReference(const AttentionCase& c, const HeadNumbers& q, const HeadNumbers& k,
                     const HeadNumbers& v, const HeadNumbers& g, double scale,
                     const std::vector<uint8_t>& valid, const std::vector<double>& bias)
      : c_(c), q_(q), k_(k), v_(v), g_(g), scale_(scale), valid_(valid), bias_(bias) {
    out.resize(g.numbers.host.size());
    q_gradient.assign(size_of_heads(c.heads, c.queries, c.width), 0.0);
    k_gradient.assign(size_of_heads(c.kv_heads, c.keys, c.width), 0.0);
    v_gradient.assign(size_of_heads(c.kv_heads, c.keys, c.value_width), 0.0);
    for (int b = 0; b < c.batch; ++b)
      for (int h = 0; h < c.heads; ++h)
        for (int i = 0; i < c.queries; ++i) pass(b, h, i);
  }

  std::vector<double> out, log_sum, q_gradient, k_gradient, v_gradient;  // as [B,N,H,W]

 private:
  size_t size_of_heads(int heads, int rows, int width) const {
    return static_cast<size_t>(int64_t{1} * c_.batch * heads * rows * width);
  }
  static size_t place(int b, int n, int h, int heads, int rows, int width) {
    return static_cast<size_t>(((int64_t{1} * b * rows + n) * heads + h) * width);
  }

  bool meet(int b, int i, int j) const {
    const int newest = i + c_.keys - c_.queries;
    return (!c_.causal || j <= newest) && (!c_.window || j > newest - c_.window) &&
           (!c_.padded || valid_[static_cast<size_t>(b * c_.keys + j)]);
  }

  double bias_of(int b, int h, int i, int j) const {
    if (c_.bias == Bias::none) return 0.0;
    const int64_t n = c_.queries, m = c_.keys;
    if (c_.bias == Bias::toeplitz)
      return bias_[static_cast<size_t>(h * (n + m - 1) + j - i + n - 1)];
    const int64_t image = c_.bias == Bias::shared ? 0 : int64_t{1} * b * c_.heads + h;
    return bias_[static_cast<size_t>((image * n + i) * m + j)];
  }

  void pass(int b, int h, int i) {
    const int kv = h / (c_.heads / c_.kv_heads);
    std::vector<double> weights(static_cast<size_t>(c_.keys), 0.0);
    double most = -INFINITY, sum = 0.0, along = 0.0;
    for (int j = 0; j < c_.keys; ++j) {
      double score = 0.0;
      for (int w = 0; w < c_.width; ++w) score += q_(b, h, i, w) * k_(b, kv, j, w);
      weights[j] = meet(b, i, j) ? score * scale_ + bias_of(b, h, i, j) : -INFINITY;
      most = std::max(most, weights[j]);
    }
    for (double& w : weights) {
      w = w == -INFINITY ? 0.0 : std::exp(w - most);
      sum += w;
    }
    log_sum.push_back(sum > 0.0 ? (most + std::log(sum)) / std::log(2.0) : -INFINITY);
    double* y = &out[place(b, i, h, c_.heads, c_.queries, c_.value_width)];
    std::fill(y, y + c_.value_width, 0.0);
    for (int j = 0; j < c_.keys; ++j) {
      if (sum > 0.0) weights[j] /= sum;
      for (int w = 0; w < c_.value_width; ++w) y[w] += weights[j] * v_(b, kv, j, w);
    }
    for (int w = 0; w < c_.value_width; ++w) along += y[w] * g_(b, h, i, w);
    double* dq = &q_gradient[place(b, i, h, c_.heads, c_.queries, c_.width)];
    for (int j = 0; j < c_.keys; ++j) {
      double product = 0.0;
      double* dv = &v_gradient[place(b, j, kv, c_.kv_heads, c_.keys, c_.value_width)];
      for (int w = 0; w < c_.value_width; ++w) {
        product += g_(b, h, i, w) * v_(b, kv, j, w);
        dv[w] += weights[j] * g_(b, h, i, w);
      }
      const double slope = weights[j] * (product - along) * scale_;
      double* dk = &k_gradient[place(b, j, kv, c_.kv_heads, c_.keys, c_.width)];
      for (int w = 0; w < c_.width; ++w) {
        dq[w] += slope * k_(b, kv, j, w);
        dk[w] += slope * q_(b, h, i, w);
      }
    }
  }

  const AttentionCase& c_;
  const HeadNumbers &q_, &k_, &v_, &g_;
  double scale_;
  const std::vector<uint8_t>& valid_;
  const std::vector<double>& bias_;
};

inline std::vector<double> finite_only(std::vector<double> values) {
  for (double& x : values)
    if (x == -INFINITY) x = -1.0;  // the same on both sides
  return values;
}

/// Forward and backward of one case.
inline void check_attention(Report& report, const AttentionCase& c, Element element) {
  Draw draw(static_cast<uint64_t>(c.queries * 1000 + c.keys));
  const auto heads = [&](int h, int n, int w, int gap) {
    return HeadNumbers(element, draw.normal(int64_t{1} * c.batch * n * h * (w + gap), 1.5), c.batch,
                       h, n, w, gap);
  };
  // Queries with gaps between their heads, as cut out of one projection of q, k and v.
  const HeadNumbers q = heads(c.heads, c.queries, c.width, 8),
                    k = heads(c.kv_heads, c.keys, c.width, 0),
                    v = heads(c.kv_heads, c.keys, c.value_width, 0),
                    g = heads(c.heads, c.queries, c.value_width, 0);
  std::vector<uint8_t> valid(static_cast<size_t>(c.batch * c.keys));
  for (size_t i = 0; i < valid.size(); ++i)  // nobody in the first row of the batch sees a key
    valid[i] = i >= static_cast<size_t>(c.keys) / (c.batch > 1 ? 1 : 4) && draw.below(10) > 3;
  const DeviceArray valid_there(valid);
  const int64_t images = c.bias == Bias::shared ? 1 : int64_t{1} * c.batch * c.heads;
  const Numbers bias(
      Element::float32,
      draw.normal(c.bias == Bias::toeplitz ? int64_t{1} * c.heads * (c.queries + c.keys - 1)
                                           : images * c.queries * c.keys));
  HeadNumbers out(element, c.batch, c.heads, c.queries, c.value_width);
  const Numbers log_sum(Element::float32, int64_t{1} * c.batch * c.heads * c.queries);

  Attention a;
  a.element = element;
  a.batch = c.batch, a.heads = c.heads, a.kv_heads = c.kv_heads;
  a.queries = c.queries, a.keys = c.keys, a.width = c.width, a.value_width = c.value_width;
  a.q = q.view(), a.k = k.view(), a.v = v.view(), a.out = out.view();
  a.log_sum = log_sum.floats();
  a.scale = 1.0f / std::sqrt(static_cast<float>(c.width));
  a.causal = c.causal, a.window = c.window;
  if (c.padded) a.key_valid = valid_there.as<uint8_t>();
  if (c.bias != Bias::none) a.bias = bias.floats();
  const int64_t n = c.queries, m = c.keys;
  if (c.bias == Bias::dense) a.bias_stride = {c.heads * n * m, n * m, m, 1};
  if (c.bias == Bias::shared) a.bias_stride = {0, 0, m, 1};
  if (c.bias == Bias::toeplitz) a.bias_stride = {0, n + m - 1, -1, 1}, a.bias += n - 1;
  succeed(attention_forward(a, nullptr));

  const HeadNumbers dq(element, c.batch, c.heads, c.queries, c.width),
      dk(element, c.batch, c.kv_heads, c.keys, c.width),
      dv(element, c.batch, c.kv_heads, c.keys, c.value_width);
  const Numbers along(Element::float32, int64_t{1} * c.batch * c.heads * c.queries);
  succeed(
      attention_backward(a, {g.view(), dq.view(), dk.view(), dv.view(), along.floats()}, nullptr));

  const AttentionReference expected(c, q, k, v, g, static_cast<double>(a.scale), valid, bias.host);
  const std::string name = c.name() + name_of(element);
  const double limit = limit_of(element);
  report.compare(name + ": out", out.numbers.read(), expected.out, limit);
  report.compare(name + ": log sum", finite_only(log_sum.read()), finite_only(expected.log_sum),
                 limit);
  report.compare(name + ": q gradient", dq.numbers.read(), expected.q_gradient, limit);
  report.compare(name + ": k gradient", dk.numbers.read(), expected.k_gradient, limit);
  report.compare(name + ": v gradient", dv.numbers.read(), expected.v_gradient, limit);
}

inline void check_attention(Report& report) {
  for (const AttentionCase& c : attention_cases())
    for (const Element element : {Element::float32, Element::bfloat16})
      check_attention(report, c, element);
}

}  // namespace formwork::FORMWORK_CUDA

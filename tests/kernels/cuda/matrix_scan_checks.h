// Linear attention and gated states by the kernels against the recurrence in float64.
#pragma once

#include "kernels/cuda/device_array.h"
#include "kernels/cuda/matrix_scan.h"

namespace formwork::FORMWORK_CUDA {

struct ScanCase {
  int batch, heads, tokens, width, value_width;
  bool gated = false, states = false;
};

/// The recurrence, token by token, and its gradients from the end.
struct ScanReference {
  ScanCase c;
  const HeadNumbers &q, &k, &v, &g;
  const std::vector<double>& log_gate;
  std::vector<double> y, dq, dk, dv, d_gate, last;

  double gate(int b, int h, int t) const {
    if (!c.gated) return 1.0;
    return std::exp(log_gate[static_cast<size_t>((b * c.heads + h) * c.tokens + t)]);
  }
  size_t row(int b, int h, int t, int width) const {
    return static_cast<size_t>(((int64_t{1} * b * c.tokens + t) * c.heads + h) * width);
  }

  void pass(int b, int h, const double* initial) {
    const int K = c.width, V = c.value_width, n = c.tokens;
    std::vector<std::vector<double>> states;  // after each token, the first before all
    states.emplace_back(initial ? std::vector<double>(initial, initial + K * V)
                                : std::vector<double>(static_cast<size_t>(K * V), 0.0));
    for (int t = 0; t < n; ++t) {
      std::vector<double> s = states.back();
      for (int i = 0; i < K; ++i)
        for (int j = 0; j < V; ++j) {
          double& x = s[static_cast<size_t>(i * V + j)];
          x = x * gate(b, h, t) + k(b, h, t, i) * v(b, h, t, j);
          y[row(b, h, t, V) + static_cast<size_t>(j)] += q(b, h, t, i) * x;
        }
      states.push_back(s);
    }
    last.insert(last.end(), states.back().begin(), states.back().end());
    std::vector<double> slope(static_cast<size_t>(K * V), 0.0);  // of the state after a token
    for (int t = n - 1; t >= 0; --t) {
      double gate_slope = 0.0;
      for (int i = 0; i < K; ++i)
        for (int j = 0; j < V; ++j) {
          const size_t at = static_cast<size_t>(i * V + j);
          const double out = g(b, h, t, j);
          dq[row(b, h, t, K) + static_cast<size_t>(i)] +=
              states[static_cast<size_t>(t + 1)][at] * out;
          slope[at] += q(b, h, t, i) * out;
          dk[row(b, h, t, K) + static_cast<size_t>(i)] += slope[at] * v(b, h, t, j);
          dv[row(b, h, t, V) + static_cast<size_t>(j)] += slope[at] * k(b, h, t, i);
          gate_slope += slope[at] * states[static_cast<size_t>(t)][at] * gate(b, h, t);
          slope[at] *= gate(b, h, t);
        }
      d_gate[static_cast<size_t>((b * c.heads + h) * n + t)] = gate_slope;
    }
  }
};

inline void check_matrix_scan(Report& report, const ScanCase& c, Element element) {
  Draw draw(static_cast<uint64_t>(c.tokens * 100 + c.width));
  const auto draw_heads = [&](int width, int gap) {
    return HeadNumbers(element,
                       draw.normal(int64_t{1} * c.batch * c.tokens * c.heads * (width + gap)),
                       c.batch, c.heads, c.tokens, width, gap);
  };
  const HeadNumbers q = draw_heads(c.width, 3), k = draw_heads(c.width, 0),
                    v = draw_heads(c.value_width, 0), g = draw_heads(c.value_width, 0);
  const HeadNumbers y(element, c.batch, c.heads, c.tokens, c.value_width),
      dq(element, c.batch, c.heads, c.tokens, c.width),
      dk(element, c.batch, c.heads, c.tokens, c.width),
      dv(element, c.batch, c.heads, c.tokens, c.value_width);
  const int64_t heads = int64_t{1} * c.batch * c.heads,
                state = int64_t{1} * c.width * c.value_width;
  std::vector<double> logs = draw.normal(heads * c.tokens, 0.3);
  for (double& x : logs) x = -std::fabs(x);
  const Numbers log_gate(Element::float32, logs),
      initial(Element::float32, draw.normal(heads * state)), last(Element::float32, heads * state),
      d_gate(Element::float32, heads * c.tokens);
  MatrixScan a;
  a.element = element, a.batch = c.batch, a.heads = c.heads, a.tokens = c.tokens;
  a.width = c.width, a.value_width = c.value_width;
  a.q = q.view(), a.k = k.view(), a.v = v.view(), a.y = y.view();
  if (c.gated) a.log_gate = log_gate.floats();
  if (c.states) a.initial = initial.floats(), a.last = last.floats();
  const Numbers room(Element::float32, matrix_scan_room(a));
  a.room = room.floats();
  succeed(matrix_scan_forward(a, nullptr));
  if (!c.states)
    succeed(matrix_scan_backward(
        a, {g.view(), dq.view(), dk.view(), dv.view(), c.gated ? d_gate.floats() : nullptr},
        nullptr));

  const auto zeros = [&](int width) {
    return std::vector<double>(static_cast<size_t>(heads * c.tokens * width), 0.0);
  };
  ScanReference expected{c,
                         q,
                         k,
                         v,
                         g,
                         log_gate.host,
                         zeros(c.value_width),
                         zeros(c.width),
                         zeros(c.width),
                         zeros(c.value_width),
                         zeros(1),
                         {}};
  for (int b = 0; b < c.batch; ++b)
    for (int h = 0; h < c.heads; ++h)
      expected.pass(
          b, h, c.states ? &initial.host[static_cast<size_t>((b * c.heads + h) * state)] : nullptr);
  const std::string name = std::string("scan") + (c.gated ? " gated " : " ") +
                           std::to_string(c.tokens) + " " + std::to_string(c.width) + " " +
                           std::to_string(c.value_width) + name_of(element);
  const double limit = limit_of(element);
  report.compare(name + ": y", y.numbers.read(), expected.y, limit);
  if (c.states) {
    report.compare(name + ": last state", last.read(), expected.last, limit);
    return;
  }
  report.compare(name + ": q gradient", dq.numbers.read(), expected.dq, limit);
  report.compare(name + ": k gradient", dk.numbers.read(), expected.dk, limit);
  report.compare(name + ": v gradient", dv.numbers.read(), expected.dv, limit);
  // A sum of differences over all later tokens: errors add up where the terms cancel.
  if (c.gated) report.compare(name + ": gate gradient", d_gate.read(), expected.d_gate, 10 * limit);
}

inline void check_matrix_scan(Report& report) {
  for (const ScanCase& c : std::vector<ScanCase>{{1, 1, 1, 4, 4, true},
                                                 {2, 2, 0, 8, 8, true},
                                                 {2, 2, 64, 32, 32},
                                                 {1, 2, 65, 20, 31, true},
                                                 {1, 2, 200, 64, 40, true},
                                                 {1, 1, 130, 40, 72, false, true},
                                                 {1, 2, 129, 17, 9, true, true},
                                                 {1, 1, 100, 128, 72, true}})
    for (const Element element : {Element::float32, Element::bfloat16})
      check_matrix_scan(report, c, element);
}

}  // namespace formwork::FORMWORK_CUDA

#include "kernels/simd/squash_rows.h"

#include "kernels/simd/functions.h"

namespace formwork::FORMWORK_SIMD {
namespace {

void tanh_row(const float* x, float alpha, float* out, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, tanh_of(load(x + i) * alpha));
  if (i == n) return;
  Rest rest(x + i, n - i);
  store(rest.values, tanh_of(load(rest.values) * alpha));
  rest.put(out + i, n - i);
}

void gate_vectors(const float* x, float root, const float* scale, const float* gate, float* y,
                  int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vector v = load(x + i);
    store(y + i, v * root * load(scale + i) * sigmoid_of(load(gate + i) * v));
  }
}

void gate_row(const float* x, float root, const float* scale, const float* gate, float* y,
              int64_t n) {
  const int64_t whole = n / kLanes * kLanes, left = n - whole;
  gate_vectors(x, root, scale, gate, y, whole);
  if (left == 0) return;
  const Rest by(scale + whole, left), through(gate + whole, left);
  Rest rest(x + whole, left);
  gate_vectors(rest.values, root, by.values, through.values, rest.values, kLanes);
  rest.put(y + whole, left);
}

/// All of dx but the part through root; returns Σ g · scale · σ · x.
Vector gate_slopes(const float* g, const float* x, float root, const float* scale,
                   const float* gate, float* dx, float* scale_sum, float* gate_sum, int64_t n) {
  Vector along{};
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vector v = load(x + i), through = load(gate + i), dy = load(g + i);
    const Vector open = sigmoid_of(through * v);
    const Vector inner = dy * load(scale + i) * open;
    const Vector bend = inner * (1.0f - open) * v * root;
    store(scale_sum + i, load(scale_sum + i) + dy * v * root * open);
    store(gate_sum + i, load(gate_sum + i) + bend * v);
    store(dx + i, inner * root + bend * through);
    along += inner * v;
  }
  return along;
}

void gate_backward_row(const float* g, const float* x, float root, float slope, const float* scale,
                       const float* gate, float* dx, float* scale_sum, float* gate_sum, int64_t n) {
  const int64_t whole = n / kLanes * kLanes, left = n - whole;
  Vector along = gate_slopes(g, x, root, scale, gate, dx, scale_sum, gate_sum, whole);
  if (left > 0) {
    const Rest dy(g + whole, left), v(x + whole, left), by(scale + whole, left),
        through(gate + whole, left);
    Rest to(x + whole, left), scales(scale_sum + whole, left), gates(gate_sum + whole, left);
    along += gate_slopes(dy.values, v.values, root, by.values, through.values, to.values,
                         scales.values, gates.values, kLanes);
    to.put(dx + whole, left);
    scales.put(scale_sum + whole, left);
    gates.put(gate_sum + whole, left);
  }
  const float back = sum(along) * slope;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(dx + i, load(dx + i) - load(x + i) * back);
  for (; i < n; ++i) dx[i] -= x[i] * back;
}

}  // namespace

extern const SquashRows kSquashRows;
const SquashRows kSquashRows{tanh_row, gate_row, gate_backward_row};

}  // namespace formwork::FORMWORK_SIMD

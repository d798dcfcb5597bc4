#include "kernels/simd/activation_rows.h"

#include "kernels/simd/functions.h"

namespace formwork::FORMWORK_SIMD {
namespace {

/// f(z) and f'(z); what is not used costs nothing.
struct Curve {
  Vector value, slope;
};

template <Activation kFunction>
inline Curve curve_at(Vector z) {
  // A NaN is neither above nor below 0 and must come through.
  const Vector above = z < Vector{} ? Vector{} : z;
  if constexpr (kFunction == Activation::relu) return {above, z > Vector{} ? all(1.0f) : Vector{}};
  if constexpr (kFunction == Activation::relu2) return {above * above, 2.0f * above};
  if constexpr (kFunction == Activation::gelu) {
    const Normal normal = normal_at(z);
    return {z * normal.below, normal.below + z * normal.density};
  }
  if constexpr (kFunction == Activation::gelu_tanh) {
    const float root = 0.79788456f, cube = 0.044715f;  // √(2/π)
    const Vector square = z * z;
    // (1 + tanh u) / 2 is the logistic function of 2 u, without cancellation.
    const Logistic open = logistic_at(2.0f * root * z * (1.0f + cube * square));
    const Vector inner = 2.0f * root * (1.0f + 3.0f * cube * square);
    return {z * open.value, open.value + z * open.slope * inner};
  }
  if constexpr (kFunction == Activation::silu) {
    const Logistic open = logistic_at(z);
    return {z * open.value, open.value + z * open.slope};
  }
  if constexpr (kFunction == Activation::sigmoid) {
    const Logistic open = logistic_at(z);
    return {open.value, open.slope};
  }
  return {z, all(1.0f)};
}

template <Activation kFunction>
void forward_vectors(const float* z, const float* bias, const float* factor, const float* residual,
                     float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    Vector v = load(z + i);
    if (bias) v += load(bias + i);
    v = curve_at<kFunction>(v).value;
    if (factor) v *= load(factor + i);
    if (residual) v += load(residual + i);
    store(y + i, v);
  }
}

template <Activation kFunction>
void backward_vectors(const float* g, const float* z, const float* bias, const float* factor,
                      float* dz, float* dfactor, float* bias_sum, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    Vector v = load(z + i), slope = load(g + i);
    if (bias) v += load(bias + i);
    const Curve curve = curve_at<kFunction>(v);
    if (factor) {
      store(dfactor + i, slope * curve.value);
      slope *= load(factor + i);
    }
    slope *= curve.slope;
    store(dz + i, slope);
    if (bias_sum) store(bias_sum + i, load(bias_sum + i) + slope);
  }
}

template <Activation kFunction>
void forward_row(const float* z, const float* bias, const float* factor, const float* residual,
                 float* y, int64_t n) {
  const int64_t whole = n / kLanes * kLanes, left = n - whole;
  forward_vectors<kFunction>(z, bias, factor, residual, y, whole);
  if (left == 0) return;
  const auto end = [&](const float* row) { return Rest(row ? row + whole : nullptr, left); };
  const Rest v = end(z), b = end(bias), f = end(factor), r = end(residual);
  Rest out(nullptr, 0);
  forward_vectors<kFunction>(v.values, bias ? b.values : nullptr, factor ? f.values : nullptr,
                             residual ? r.values : nullptr, out.values, kLanes);
  out.put(y + whole, left);
}

template <Activation kFunction>
void backward_row(const float* g, const float* z, const float* bias, const float* factor, float* dz,
                  float* dfactor, float* bias_sum, int64_t n) {
  const int64_t whole = n / kLanes * kLanes, left = n - whole;
  backward_vectors<kFunction>(g, z, bias, factor, dz, dfactor, bias_sum, whole);
  if (left == 0) return;
  const auto end = [&](const float* row) { return Rest(row ? row + whole : nullptr, left); };
  const Rest slope = end(g), v = end(z), b = end(bias), f = end(factor);
  Rest sums = end(bias_sum), out(nullptr, 0), out_factor(nullptr, 0);
  backward_vectors<kFunction>(slope.values, v.values, bias ? b.values : nullptr,
                              factor ? f.values : nullptr, out.values, out_factor.values,
                              bias_sum ? sums.values : nullptr, kLanes);
  out.put(dz + whole, left);
  if (factor) out_factor.put(dfactor + whole, left);
  if (bias_sum) sums.put(bias_sum + whole, left);
}

/// Calls body with the function as a constant.
template <class Body>
inline void with_function(Activation f, const Body& body) {
  switch (f) {
    case Activation::identity:
      return body.template operator()<Activation::identity>();
    case Activation::relu:
      return body.template operator()<Activation::relu>();
    case Activation::relu2:
      return body.template operator()<Activation::relu2>();
    case Activation::gelu:
      return body.template operator()<Activation::gelu>();
    case Activation::gelu_tanh:
      return body.template operator()<Activation::gelu_tanh>();
    case Activation::silu:
      return body.template operator()<Activation::silu>();
    case Activation::sigmoid:
      return body.template operator()<Activation::sigmoid>();
  }
}

void forward(Activation f, const float* z, const float* bias, const float* factor,
             const float* residual, float* y, int64_t n) {
  with_function(
      f, [&]<Activation kFunction>() { forward_row<kFunction>(z, bias, factor, residual, y, n); });
}

void backward(Activation f, const float* g, const float* z, const float* bias, const float* factor,
              float* dz, float* dfactor, float* bias_sum, int64_t n) {
  with_function(f, [&]<Activation kFunction>() {
    backward_row<kFunction>(g, z, bias, factor, dz, dfactor, bias_sum, n);
  });
}

}  // namespace

extern const ActivationRows kActivationRows;
const ActivationRows kActivationRows{forward, backward};

}  // namespace formwork::FORMWORK_SIMD

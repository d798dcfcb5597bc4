#include "kernels/cuda/glu.h"

#include <cmath>

#include "kernels/cuda/device.h"

namespace formwork::FORMWORK_CUDA {
namespace {

constexpr int kGluThreads = 256;

struct Slope {
  float value, derivative;
};

__device__ __forceinline__ float logistic(float x) {
  return 1.0f / (1.0f + expf(-x));
}

template <Gate gate>
__device__ __forceinline__ Slope slope_of(float x) {
  if (gate == Gate::silu) {
    const float s = logistic(x);
    return {x * s, s * (1.0f + x * (1.0f - s))};
  }
  if (gate == Gate::sigmoid) {
    const float s = logistic(x);
    return {s, s * (1.0f - s)};
  }
  if (gate == Gate::relu) return {fmaxf(x, 0.0f), x > 0.0f ? 1.0f : 0.0f};
  if (gate == Gate::gelu) {
    const float below = 0.5f * erfcf(-x * 0.70710678118654752f);  // of a normal number
    const float density = 0.3989422804014327f * expf(-0.5f * x * x);
    return {x * below, below + x * density};
  }
  if (gate == Gate::gelu_tanh) {
    const float root = 0.7978845608028654f, cubic = 0.044715f;
    const float t = tanhf(root * (x + cubic * x * x * x));
    const float inside = root * (1.0f + 3.0f * cubic * x * x);
    return {0.5f * x * (1.0f + t), 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inside};
  }
  return {x, 1.0f};
}

template <class T, int n, Gate gate>
__global__ void __launch_bounds__(kGluThreads) glu_forward_kernel(const Glu a) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kGluThreads + threadIdx.x) * n;
  if (i >= a.rows * a.width) return;
  const int64_t at = i / a.width * a.stride + i % a.width;
  float g[n], u[n];
  load(g, static_cast<const T*>(a.gate) + at);
  load(u, static_cast<const T*>(a.up) + at);
  FORMWORK_UNROLL
  for (int e = 0; e < n; ++e) u[e] *= slope_of<gate>(g[e]).value;
  store(static_cast<T*>(a.y) + i, u);
}

template <class T, int n, Gate gate>
__global__ void __launch_bounds__(kGluThreads)
    glu_backward_kernel(const Glu a, const GluGradients to) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kGluThreads + threadIdx.x) * n;
  if (i >= a.rows * a.width) return;
  const int64_t at = i / a.width * a.stride + i % a.width;
  float g[n], u[n], y[n];
  load(g, static_cast<const T*>(a.gate) + at);
  load(u, static_cast<const T*>(a.up) + at);
  load(y, static_cast<const T*>(to.y) + i);
  FORMWORK_UNROLL
  for (int e = 0; e < n; ++e) {
    const Slope slope = slope_of<gate>(g[e]);
    g[e] = y[e] * u[e] * slope.derivative;
    u[e] = y[e] * slope.value;
  }
  store(static_cast<T*>(to.gate) + at, g);
  store(static_cast<T*>(to.up) + at, u);
}

template <class Body>
Status with_gate(Gate gate, Body body) {
  switch (gate) {
    case Gate::silu:
      return body(std::integral_constant<Gate, Gate::silu>());
    case Gate::gelu:
      return body(std::integral_constant<Gate, Gate::gelu>());
    case Gate::gelu_tanh:
      return body(std::integral_constant<Gate, Gate::gelu_tanh>());
    case Gate::relu:
      return body(std::integral_constant<Gate, Gate::relu>());
    case Gate::sigmoid:
      return body(std::integral_constant<Gate, Gate::sigmoid>());
    default:
      return body(std::integral_constant<Gate, Gate::identity>());
  }
}

/// Calls body(T{}, elements at once, function, launch).
template <class Body>
Status with_glu(const Glu& a, bool vectors, Stream stream, Body body) {
  return with_type(a.element, [&](auto type) {
    return with_gate(a.function, [&](auto gate) {
      const auto sized = [&](auto n) {
        const int64_t blocks = blocks_for(a.rows * a.width, kGluThreads * n);
        return body(type, n, gate, Launch{dim3(blocks), kGluThreads, 0, stream});
      };
      return vectors ? sized(std::integral_constant<int, kVector<decltype(type)>>())
                     : sized(std::integral_constant<int, 1>());
    });
  });
}

}  // namespace

Status glu_forward(const Glu& a, Stream stream) {
  const bool vectors = in_vectors(a.element, a.gate, a.stride, a.width) &&
                       in_vectors(a.element, a.up) && in_vectors(a.element, a.y);
  return with_glu(a, vectors, stream, [&](auto type, auto n, auto gate, const Launch& how) {
    return launch(how,
                  glu_forward_kernel<decltype(type), decltype(n)::value, decltype(gate)::value>, a);
  });
}

Status glu_backward(const Glu& a, const GluGradients& to, Stream stream) {
  const bool vectors = in_vectors(a.element, a.gate, a.stride, a.width) &&
                       in_vectors(a.element, a.up) && in_vectors(a.element, to.y) &&
                       in_vectors(a.element, to.gate) && in_vectors(a.element, to.up);
  return with_glu(a, vectors, stream, [&](auto type, auto n, auto gate, const Launch& how) {
    return launch(
        how, glu_backward_kernel<decltype(type), decltype(n)::value, decltype(gate)::value>, a, to);
  });
}

}  // namespace formwork::FORMWORK_CUDA

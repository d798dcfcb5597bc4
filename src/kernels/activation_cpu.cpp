#include <ATen/Dispatch.h>

#include <algorithm>

#include "kernels/activation.h"
#include "kernels/parallel_rows.h"
#include "kernels/rows.h"
#include "kernels/simd_levels.h"

namespace formwork::cpu {
namespace {

template <class T>
void activate_rows(const Tensor& z, Activation function, const ActivationExtras& extras,
                   const Tensor& y) {
  const int64_t n = z.size(-1);
  const T *from = z.const_data_ptr<T>(), *factor = data_or_null<T>(extras.factor),
          *residual = data_or_null<T>(extras.residual);
  const float* bias = data_or_null<float>(extras.bias);
  T* to = y.data_ptr<T>();
  const ActivationRows& rows = *simd_levels().front().activation;
  at::parallel_for(0, z.numel() / n, kRowsAtOnce, [&](int64_t begin, int64_t end) {
    RowReader<T> read(n), read_factor(n), read_residual(n);
    RowWriter<T> write(n);
    for (int64_t r = begin; r < end; ++r) {
      rows.forward(
          function, read(from + r * n), bias, factor ? read_factor(factor + r * n) : nullptr,
          residual ? read_residual(residual + r * n) : nullptr, write.place(to + r * n), n);
      write.finish(to + r * n);
    }
  });
}

template <class T>
void differentiate_rows(const Tensor& gradient, const Tensor& z, Activation function,
                        const ActivationExtras& extras, const ActivationBackward& result,
                        const Tensor& partials, int64_t chunk) {
  const int64_t n = z.size(-1), count = z.numel() / n;
  const T *g = gradient.const_data_ptr<T>(), *from = z.const_data_ptr<T>(),
          *factor = data_or_null<T>(extras.factor);
  const float* bias = data_or_null<float>(extras.bias);
  float* sums = data_or_null<float>(partials);
  T *dz = result.z.data_ptr<T>(), *dfactor = data_or_null<T>(result.factor);
  const ActivationRows& rows = *simd_levels().front().activation;
  at::parallel_for(0, (count + chunk - 1) / chunk, 1, [&](int64_t begin, int64_t end) {
    RowReader<T> read(n), read_gradient(n), read_factor(n);
    RowWriter<T> write(n), write_factor(n);
    for (int64_t c = begin; c < end; ++c)
      for (int64_t r = c * chunk; r < std::min(count, (c + 1) * chunk); ++r) {
        rows.backward(function, read_gradient(g + r * n), read(from + r * n), bias,
                      factor ? read_factor(factor + r * n) : nullptr, write.place(dz + r * n),
                      factor ? write_factor.place(dfactor + r * n) : nullptr,
                      sums ? sums + c * n : nullptr, n);
        write.finish(dz + r * n);
        if (factor) write_factor.finish(dfactor + r * n);
      }
  });
}

}  // namespace

void activation_forward(const Tensor& z, Activation function, const ActivationExtras& extras,
                        const Tensor& y) {
  AT_DISPATCH_SWITCH(
      z.scalar_type(), "activate", AT_DISPATCH_CASE(at::kFloat, [&] {
        activate_rows<scalar_t>(z, function, extras, y);
      }) AT_DISPATCH_CASE(at::kBFloat16, [&] {
        activate_rows<scalar_t>(z, function, extras, y);
      }) AT_DISPATCH_CASE(at::kHalf, [&] { activate_rows<scalar_t>(z, function, extras, y); }));
}

ActivationBackward activation_backward(const Tensor& gradient, const Tensor& z, Activation function,
                                       const ActivationExtras& extras) {
  const int64_t n = z.size(-1), count = z.numel() / n;
  // Chosen by the shape alone: the same sums on any number of threads.
  const int64_t chunk = std::max(kRowsAtOnce, (count + kMostPartials - 1) / kMostPartials);
  ActivationBackward result{at::empty_like(z), {}, {}};
  if (extras.factor.defined()) result.factor = at::empty_like(z);
  Tensor partials;
  if (extras.bias.defined())
    partials = at::zeros({(count + chunk - 1) / chunk, n}, extras.bias.options());
  const auto run = [&]<class T>() {
    differentiate_rows<T>(gradient, z, function, extras, result, partials, chunk);
  };
  AT_DISPATCH_SWITCH(z.scalar_type(), "activate", AT_DISPATCH_CASE(at::kFloat, [&] {
                       run.template operator()<scalar_t>();
                     }) AT_DISPATCH_CASE(at::kBFloat16, [&] {
                       run.template operator()<scalar_t>();
                     }) AT_DISPATCH_CASE(at::kHalf, [&] { run.template operator()<scalar_t>(); }));
  if (partials.defined()) result.bias = partials.sum(0);
  return result;
}

}  // namespace formwork::cpu

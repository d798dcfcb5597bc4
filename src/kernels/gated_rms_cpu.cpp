#include <ATen/Dispatch.h>

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "kernels/gated_rms.h"
#include "kernels/parallel_rows.h"
#include "kernels/rows.h"
#include "kernels/simd_levels.h"

namespace formwork::cpu {
namespace {

template <class T>
void gate_rows(const at::Tensor& x, const float* scale, const float* gate, double eps,
               const GatedRmsForward& result) {
  const int64_t n = x.size(-1);
  const T* from = x.const_data_ptr<T>();
  T* to = result.y.data_ptr<T>();
  float *roots = result.root.data_ptr<float>(), *slopes = result.slope.data_ptr<float>();
  const SquashRows& rows = *simd_levels().front().squash;
  parallel_rows(x.numel() / n, kRowsAtOnce, [&](int64_t begin, int64_t end) {
    RowReader<T> read(n);
    RowWriter<T> write(n);
    for (int64_t r = begin; r < end; ++r) {
      const float* row = read(from + r * n);
      const float length = std::sqrt(sum_of_squares(row, n) / static_cast<float>(n));
      const float root = 1.0f / (length + static_cast<float>(eps));
      roots[r] = root;
      slopes[r] = length > 0 ? root * root / (length * static_cast<float>(n)) : 0.0f;
      rows.gate(row, root, scale, gate, write.place(to + r * n), n);
      write.finish(to + r * n);
    }
  });
}

template <class T>
void gate_rows_backward(const at::Tensor& g, const at::Tensor& x, const GatedRmsForward& forward,
                        const float* scale, const float* gate, const at::Tensor& dx,
                        const at::Tensor& partials, int64_t chunk) {
  const int64_t n = x.size(-1), count = x.numel() / n;
  const T *gradient = g.const_data_ptr<T>(), *from = x.const_data_ptr<T>();
  const float *roots = forward.root.const_data_ptr<float>(),
              *slopes = forward.slope.const_data_ptr<float>();
  T* to = dx.data_ptr<T>();
  float* partial = partials.data_ptr<float>();
  const SquashRows& rows = *simd_levels().front().squash;
  parallel_rows(partials.size(0), 1, [&](int64_t begin, int64_t end) {
    RowReader<T> read(n), read_gradient(n);
    RowWriter<T> write(n);
    for (int64_t c = begin; c < end; ++c) {
      float* sums = partial + 2 * c * n;
      for (int64_t r = c * chunk; r < std::min(count, (c + 1) * chunk); ++r) {
        rows.gate_backward(read_gradient(gradient + r * n), read(from + r * n), roots[r], slopes[r],
                           scale, gate, write.place(to + r * n), sums, sums + n, n);
        write.finish(to + r * n);
      }
    }
  });
}

}  // namespace

GatedRmsForward gated_rms_forward(const at::Tensor& x, const at::Tensor& scale,
                                  const at::Tensor& gate, double eps) {
  const at::Tensor root = at::empty({x.numel() / x.size(-1)}, x.options().dtype(at::kFloat));
  const GatedRmsForward result{at::empty_like(x), root, at::empty_like(root)};
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "gated_rms", [&] {
    if constexpr (!std::is_same_v<scalar_t, double>)
      gate_rows<scalar_t>(x, scale.const_data_ptr<float>(), gate.const_data_ptr<float>(), eps,
                          result);
  });
  return result;
}

GatedRmsBackward gated_rms_backward(const at::Tensor& g, const at::Tensor& x,
                                    const GatedRmsForward& forward, const at::Tensor& scale,
                                    const at::Tensor& gate) {
  const int64_t n = x.size(-1), rows = x.numel() / n;
  // Chosen by the shape alone: the same sums on any number of threads.
  const int64_t chunk = std::max(kRowsAtOnce, (rows + kMostPartials - 1) / kMostPartials);
  const at::Tensor partials = at::zeros({(rows + chunk - 1) / chunk, 2, n}, scale.options());
  const at::Tensor dx = at::empty_like(x);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "gated_rms", [&] {
    if constexpr (!std::is_same_v<scalar_t, double>)
      gate_rows_backward<scalar_t>(g, x, forward, scale.const_data_ptr<float>(),
                                   gate.const_data_ptr<float>(), dx, partials, chunk);
  });
  const at::Tensor sums = partials.sum(0);
  return {dx, sums[0], sums[1]};
}

}  // namespace formwork::cpu

#include <ATen/Dispatch.h>

#include <algorithm>

#include "kernels/channel_rows.h"
#include "kernels/channels.h"
#include "kernels/parallel_rows.h"
#include "kernels/rows.h"

namespace formwork::cpu {
namespace {

template <class T>
void sum_rows(const T* g, const T* x, const Accumulator<T>* centre, const bool* valid,
              Accumulator<T>* partials, int64_t rows, int64_t n, int64_t chunk) {
  using A = Accumulator<T>;
  parallel_rows((rows + chunk - 1) / chunk, 1, [&](int64_t begin, int64_t end) {
    std::vector<RowReader<T>> read_g(kTogether, RowReader<T>(n)), read_x = read_g;
    for (int64_t c = begin; c < end; ++c) {
      A* product = partials + 2 * c * n;
      A* first = product + n;
      Adder<A> adder(centre, product, first, n);
      for (int64_t r = c * chunk; r < std::min(rows, (c + 1) * chunk); ++r) {
        if (valid && !valid[r]) continue;
        // Widened rows wait in buffers of their own until they are added.
        const int place = adder.count();
        adder.add(g ? read_g[place](g + r * n) : nullptr, read_x[place](x + r * n));
      }
      adder.finish();
    }
  });
}

}  // namespace

ChannelSums channel_sums(const at::Tensor& g, const at::Tensor& x, const at::Tensor& centre,
                         const at::Tensor& valid) {
  const int64_t n = x.size(-1);
  const int64_t rows = x.numel() / n;
  // Chosen by the shape alone: the same sums on any number of threads.
  const int64_t chunk = std::max(kRowsAtOnce, (rows + kMostPartials - 1) / kMostPartials);
  const at::Tensor partials =
      at::zeros({(rows + chunk - 1) / chunk, 2, n}, x.options().dtype(accumulator_type(x)));
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "channel_sums", [&] {
    using A = Accumulator<scalar_t>;
    sum_rows<scalar_t>(data_or_null<scalar_t>(g), x.const_data_ptr<scalar_t>(),
                       data_or_null<A>(centre), data_or_null<bool>(valid), partials.data_ptr<A>(),
                       rows, n, chunk);
  });
  const at::Tensor sums = partials.sum(0);
  return {sums[0], sums[1]};
}

at::Tensor channel_combine(const at::Tensor& g, const at::Tensor& g_factor, const at::Tensor& x,
                           const at::Tensor& x_factor, const at::Tensor& shift) {
  const int64_t n = g.size(-1);
  const int64_t rows = g.numel() / n;
  at::Tensor y = at::empty_like(g);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, g.scalar_type(), "channels", [&] {
    using A = Accumulator<scalar_t>;
    const auto* from = g.const_data_ptr<scalar_t>();
    const auto* other = data_or_null<scalar_t>(x);
    auto* to = y.data_ptr<scalar_t>();
    parallel_rows(rows, kRowsAtOnce, [&](int64_t begin, int64_t end) {
      RowReader<scalar_t> read(n), read_other(n);
      RowWriter<scalar_t> write(n);
      for (int64_t r = begin; r < end; ++r) {
        combine(read(from + r * n), data_or_null<A>(g_factor),
                other ? read_other(other + r * n) : nullptr, data_or_null<A>(x_factor),
                data_or_null<A>(shift), write.place(to + r * n), n);
        write.finish(to + r * n);
      }
    });
  });
  return y;
}

}  // namespace formwork::cpu

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/packed_linear.h"
#include "kernels/simd_levels.h"

namespace formwork::cpu {
namespace {

/// Weights that a thread takes at least: fewer are read in less time than a thread takes to start.
constexpr int64_t kWeightsAPart = 1 << 15;
/// Floats of a weight that a thread holds unpacked: what its own cache has room for; but so many
/// rows at least that a product of them is fast.
constexpr int64_t kUnpackedAtOnce = 1 << 16, kFewestUnpacked = 64;

/// Output rows that are worth a thread.
int64_t rows_a_part(int64_t in) {
  return std::max<int64_t>(1, kWeightsAPart / std::max<int64_t>(1, in));
}

const uint16_t* bits_of(const at::Tensor& values) {
  return reinterpret_cast<const uint16_t*>(values.const_data_ptr<c10::BFloat16>());
}

/// Adding and subtracting 1.5·2^52 rounds to nearest even, without a call of the C library.
constexpr double kRounding = 6755399441055744.0;

void quantise_row(const float* w, int64_t n, int8_t* q, float& scale) {
  float most = 0.0f;
  bool finite = true;
  for (int64_t i = 0; i < n; ++i) {
    finite = finite && std::isfinite(w[i]);
    most = std::max(most, std::fabs(w[i]));
  }
  if (!finite) {
    scale = std::numeric_limits<float>::quiet_NaN();
    std::fill(q, q + n, int8_t{0});
    return;
  }
  scale = most / 127.0f;
  // In double, where the quotient of two floats rounds to the nearest whole number without a doubt.
  const double inverse = scale > 0.0f ? 1.0 / static_cast<double>(scale) : 0.0;
  for (int64_t i = 0; i < n; ++i) {
    const double steps = (static_cast<double>(w[i]) * inverse + kRounding) - kRounding;
    q[i] = static_cast<int8_t>(std::clamp(steps, -127.0, 127.0));
  }
}

void unpack_part(const PackedWeight& weight, int64_t first, int64_t count, float* out) {
  const PackedProducts& products = *simd_levels().front().packed;
  const int64_t in = weight.values.size(1);
  if (!weight.scale.defined())
    return products.bfloat16_row(bits_of(weight.values) + first * in, out, count * in);
  const int8_t* q = weight.values.const_data_ptr<int8_t>() + first * in;
  const float* scale = weight.scale.const_data_ptr<float>() + first;
  for (int64_t o = 0; o < count; ++o) products.int8_row(q + o * in, scale[o], out + o * in, in);
}

}  // namespace

PackedWeight quantise_rows(const at::Tensor& weight) {
  const int64_t out = weight.size(0), in = weight.size(1);
  PackedWeight packed{at::empty({out, in}, at::kChar), at::empty({out}, at::kFloat)};
  const float* w = weight.const_data_ptr<float>();
  int8_t* q = packed.values.data_ptr<int8_t>();
  float* scale = packed.scale.data_ptr<float>();
  at::parallel_for(0, out, rows_a_part(in), [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) quantise_row(w + o * in, in, q + o * in, scale[o]);
  });
  return packed;
}

void unpack_rows(const PackedWeight& weight, int64_t first, const at::Tensor& out) {
  const int64_t in = out.size(1);
  float* to = out.data_ptr<float>();
  at::parallel_for(0, out.size(0), rows_a_part(in), [&](int64_t begin, int64_t end) {
    unpack_part(weight, first + begin, end - begin, to + begin * in);
  });
}

void packed_linear_few(const at::Tensor& x, const PackedWeight& weight, const at::Tensor& bias,
                       const at::Tensor& y) {
  const PackedProducts& products = *simd_levels().front().packed;
  const int64_t in = weight.values.size(1), out = weight.values.size(0);
  const FewVectors vectors{x.const_data_ptr<float>(), x.size(0), in, y.data_ptr<float>(), out};
  const float* shift = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
  at::parallel_for(0, out, rows_a_part(in), [&](int64_t begin, int64_t end) {
    if (weight.values.scalar_type() == at::kFloat)
      products.float32_products(weight.values.const_data_ptr<float>(), shift, begin, end, in,
                                vectors);
    else if (weight.scale.defined())
      products.int8_products(weight.values.const_data_ptr<int8_t>(),
                             weight.scale.const_data_ptr<float>(), shift, begin, end, in, vectors);
    else
      products.bfloat16_products(bits_of(weight.values), shift, begin, end, in, vectors);
  });
}

void packed_linear_many(const at::Tensor& x, const PackedWeight& weight, const at::Tensor& bias,
                        const at::Tensor& y) {
  const int64_t in = weight.values.size(1), out = weight.values.size(0);
  const int64_t most = std::max(kFewestUnpacked, kUnpackedAtOnce / std::max<int64_t>(1, in));
  const int64_t blocks = (out + most - 1) / most;
  // Other threads do not know that no gradient is wanted.
  const at::Tensor rows = x.detach(), to_rows = y.detach(),
                   shift = bias.defined() ? bias.detach() : bias;
  // Products inside stay on the thread, so that all of it is one meeting of threads, and the blocks
  // and with them the numbers are the same for any number of them.
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    const at::Tensor buffer = at::empty({std::min(most, out), in}, x.options());
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i * most, count = std::min(most, out - first);
      unpack_part(weight, first, count, buffer.data_ptr<float>());
      const at::Tensor across = buffer.narrow(0, 0, count).t();
      at::Tensor to = to_rows.narrow(1, first, count);
      if (shift.defined())
        at::addmm_out(to, shift.narrow(0, first, count), rows, across);
      else
        at::mm_out(to, rows, across);
    }
  });
}

at::Tensor packed_linear(const at::Tensor& x, const PackedWeight& weight, const at::Tensor& bias) {
  const at::Tensor y = at::empty({x.size(0), weight.values.size(0)}, x.options());
  if (y.numel() == 0) return y;
  if (x.size(0) <= kPackedRows)
    packed_linear_few(x, weight, bias, y);
  else
    packed_linear_many(x, weight, bias, y);
  return y;
}

}  // namespace formwork::cpu

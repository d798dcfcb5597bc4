#include "kernels/cuda/binding.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/cross_entropy.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/packed_linear.h"
#include "kernels/cuda/rotate.h"

namespace formwork::gpu {
namespace {

using at::Tensor;

constexpr double kLnOf2 = 0.6931471805599453;

/// Makes x's GPU the current one, and gives the stream that PyTorch's own kernels are queued in.
class Place {
 public:
  explicit Place(const Tensor& x) : guard_(x.device()) {}
  cuda::Stream stream() const { return c10::cuda::getCurrentCUDAStream().stream(); }

 private:
  c10::cuda::CUDAGuard guard_;
};

void succeed(cuda::Status status) {
  C10_CUDA_CHECK(static_cast<cudaError_t>(status));
}

cuda::Element element_of(const Tensor& x) {
  return x.scalar_type() == at::kFloat ? cuda::Element::float32 : cuda::Element::bfloat16;
}

cuda::Heads heads_of(const Tensor& x) {
  return {x.data_ptr(), x.stride(0), x.stride(1), x.stride(2)};
}

float* floats(const Tensor& x) {
  return x.defined() ? x.data_ptr<float>() : nullptr;
}

void* data_of(const Tensor& x) {
  return x.defined() ? x.data_ptr() : nullptr;
}

/// [B,H,N,W] laid out as [B,N,H,W].
Tensor merged_heads(const Tensor& like, int64_t heads, int64_t rows, int64_t width) {
  return at::empty({like.size(0), rows, heads, width}, like.options()).transpose(1, 2);
}

Tensor row_numbers(const Tensor& x, int64_t rows) {
  return at::empty({rows}, x.options().dtype(at::kFloat));
}

cuda::Attention attention_of(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                             const Tensor& log_sum, const AttentionRule& rule) {
  cuda::Attention a;
  a.element = element_of(q);
  a.batch = static_cast<int>(q.size(0));
  a.heads = static_cast<int>(q.size(1));
  a.kv_heads = static_cast<int>(k.size(1));
  a.queries = static_cast<int>(q.size(2));
  a.keys = static_cast<int>(k.size(2));
  a.width = static_cast<int>(q.size(3));
  a.value_width = static_cast<int>(v.size(3));
  a.q = heads_of(q);
  a.k = heads_of(k);
  a.v = heads_of(v);
  a.out = heads_of(out);
  a.log_sum = floats(log_sum);
  a.scale = static_cast<float>(rule.scale);
  a.causal = rule.causal;
  if (rule.key_valid.defined())
    a.key_valid = reinterpret_cast<const uint8_t*>(rule.key_valid.const_data_ptr<bool>());
  return a;
}

cuda::NormForm form_of(cpu::RmsForm form) {
  switch (form) {
    case cpu::RmsForm::left_out:
      return cuda::NormForm::crms;
    case cpu::RmsForm::at_least:
      return cuda::NormForm::at_least;
    case cpu::RmsForm::outside:
      return cuda::NormForm::outside;
    default:
      return cuda::NormForm::rms;
  }
}

cuda::Norm norm_of(const Tensor& x, const Tensor& scale, const cpu::RmsNormForward& forward,
                   cpu::RmsForm form) {
  cuda::Norm norm;
  norm.element = element_of(x);
  norm.form = form_of(form);
  norm.width = static_cast<int>(x.size(-1));
  norm.rows = x.numel() / x.size(-1);
  norm.x = x.data_ptr();
  norm.scale = floats(scale);
  norm.inverse = floats(forward.inverse_root);
  norm.slope = floats(forward.slope);
  norm.first = floats(forward.row_sum);
  return norm;
}

}  // namespace

bool serves_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                      const AttentionRule& rule) {
  if (rule.back || rule.ahead || rule.bias.defined() || rule.offset_bias.defined() ||
      rule.open_blocks.defined() || rule.cosine.defined())
    return false;
  const auto alike = [&](const Tensor& x) {
    return serves(x) && x.scalar_type() == q.scalar_type() && x.device() == q.device() &&
           x.size(-1) <= cuda::kWidestHead;
  };
  if (!alike(q) || !alike(k) || !alike(v)) return false;
  cuda::Attention a;
  a.element = element_of(q);
  a.width = static_cast<int>(q.size(-1));
  a.value_width = static_cast<int>(v.size(-1));
  int most = 0;
  C10_CUDA_CHECK(
      cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, q.device().index()));
  return cuda::attention_shared_memory(a) <= most;
}

AttentionResult attention_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                  const AttentionRule& rule) {
  const Place place(q);
  const Tensor out = merged_heads(q, q.size(1), q.size(2), v.size(3));
  const Tensor log_sum =
      at::empty({q.size(0), q.size(1), q.size(2)}, q.options().dtype(at::kFloat));
  succeed(cuda::attention_forward(attention_of(q, k, v, out, log_sum, rule), place.stream()));
  return {out, log_sum * kLnOf2};
}

cpu::AttentionBackward attention_backward(const Tensor& gradient, const Tensor& q, const Tensor& k,
                                          const Tensor& v, const AttentionResult& forward,
                                          const AttentionRule& rule) {
  const Place place(q);
  const cpu::AttentionBackward result{merged_heads(q, q.size(1), q.size(2), q.size(3)),
                                      merged_heads(k, k.size(1), k.size(2), k.size(3)),
                                      merged_heads(v, v.size(1), v.size(2), v.size(3)),
                                      {},
                                      {}};
  const Tensor log_sum = forward.log_sum_exp / kLnOf2;  // the kernels count in base 2
  const Tensor along = at::empty_like(log_sum);
  const cuda::AttentionGradients gradients{heads_of(gradient), heads_of(result.q),
                                           heads_of(result.k), heads_of(result.v), floats(along)};
  succeed(cuda::attention_backward(attention_of(q, k, v, forward.out, log_sum, rule), gradients,
                                   place.stream()));
  return result;
}

bool serves_norm(const Tensor& x) {
  return serves(x) && x.dim() > 0 && x.size(-1) <= cuda::kWidestNorm;
}

cpu::RmsNormForward rms_norm_forward(const Tensor& x, const Tensor& residual, const Tensor& scale,
                                     double eps, cpu::RmsForm form) {
  const Place place(x);
  const int64_t rows = x.numel() / x.size(-1);
  cpu::RmsNormForward result{at::empty_like(x), {}, row_numbers(x, rows), row_numbers(x, rows), {}};
  if (residual.defined()) result.sum = at::empty_like(x);
  if (form == cpu::RmsForm::left_out) result.row_sum = row_numbers(x, rows);
  cuda::Norm norm = norm_of(x, scale, result, form);
  norm.eps = static_cast<float>(eps);
  norm.residual = data_of(residual);
  norm.sum = data_of(result.sum);
  norm.y = result.y.data_ptr();
  succeed(cuda::norm_forward(norm, place.stream()));
  return result;
}

cpu::RmsNormBackward rms_norm_backward(const Tensor& gradient, const Tensor& sum_gradient,
                                       const Tensor& x, const cpu::RmsNormForward& forward,
                                       const Tensor& scale, cpu::RmsForm form) {
  const Place place(x);
  cpu::RmsNormBackward result{at::empty_like(x), {}};
  Tensor partials;
  if (scale.defined()) {
    result.scale = at::empty_like(scale);
    partials = at::empty({2, cuda::kNormPartials, x.size(-1)}, scale.options());
  }
  const cuda::Norm norm = norm_of(x, scale, forward, form);
  succeed(cuda::norm_backward(norm,
                              {gradient.data_ptr(), data_of(sum_gradient), result.x.data_ptr(),
                               floats(result.scale), nullptr, floats(partials)},
                              place.stream()));
  return result;
}

Tensor rotate_pairs(const Tensor& x, const Tensor& cosine, const Tensor& sine, Pairing pairing,
                    bool backwards) {
  const Place place(x);
  const Tensor rows = x.stride(-1) == 1 ? x : x.contiguous();
  Tensor out = at::empty_like(rows);
  if (out.stride(-1) != 1) out = at::empty(rows.sizes(), rows.options());
  if (x.numel() == 0) return out;
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = cosine.size(-1);
  const auto table = [&](const Tensor& t) { return t.to(at::kFloat).contiguous().expand(shape); };
  const Tensor cosines = table(cosine), sines = table(sine);
  cuda::Rotation a;
  a.element = element_of(x);
  a.width = static_cast<int>(x.size(-1));
  a.half = static_cast<int>(cosine.size(-1));
  a.x = rows.data_ptr();
  a.y = out.data_ptr();
  a.cosine = floats(cosines);
  a.sine = floats(sines);
  a.interleaved = pairing == Pairing::interleaved;
  a.backwards = backwards;
  for (int64_t d = x.dim() - 2, i = 2; d >= 0; --d, --i) {
    a.sizes[i] = x.size(d);
    a.x_stride[i] = rows.stride(d);
    a.y_stride[i] = out.stride(d);
    a.table_stride[i] = cosines.stride(d);
  }
  succeed(cuda::rotate(a, place.stream()));
  return out;
}

void cross_entropy(const Tensor& logits, const Tensor& target, const CrossEntropyRule& rule,
                   const Tensor& losses, bool wanted) {
  const Place place(logits);
  cuda::CrossEntropy a;
  a.element = element_of(logits);
  a.rows = logits.size(0);
  a.classes = logits.size(1);
  a.logits = logits.data_ptr();
  a.stride = logits.stride(0);
  a.target = target.const_data_ptr<int64_t>();
  a.smoothing = static_cast<float>(rule.smoothing);
  a.z_loss = static_cast<float>(rule.z_loss);
  a.losses = floats(losses);
  a.differentiate = wanted;
  succeed(cuda::cross_entropy(a, place.stream()));
}

Tensor packed_linear(const Tensor& x, const PackedWeight& weight, const Tensor& bias) {
  const Place place(x);
  const Tensor y = at::empty({x.size(0), weight.values.size(0)}, x.options());
  cuda::PackedLinear a;
  a.rows = static_cast<int>(x.size(0));
  a.in = x.size(1);
  a.out = y.size(1);
  a.x = floats(x);
  a.weight = weight.values.const_data_ptr();
  a.scale = floats(weight.scale);
  a.bias = floats(bias);
  a.y = floats(y);
  succeed(cuda::packed_linear(a, place.stream()));
  return y;
}

}  // namespace formwork::gpu

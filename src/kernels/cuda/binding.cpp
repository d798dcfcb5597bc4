#include "kernels/cuda/binding.h"

#include <ATen/ops/_sparse_coo_tensor_unsafe.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/unique_consecutive.h>
#include <ATen/ops/zeros.h>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/cross_entropy.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/glu.h"
#include "kernels/cuda/matrix_scan.h"
#include "kernels/cuda/on_tensors.h"
#include "kernels/cuda/packed_linear.h"
#include "kernels/cuda/rotate.h"

namespace formwork::gpu {
namespace {

using at::Tensor;

constexpr double kLnOf2 = 0.6931471805599453;

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

/// The gates that the kernels know; none of them is relu2.
cuda::Gate gate_of(Activation function) {
  switch (function) {
    case Activation::silu:
      return cuda::Gate::silu;
    case Activation::gelu:
      return cuda::Gate::gelu;
    case Activation::gelu_tanh:
      return cuda::Gate::gelu_tanh;
    case Activation::relu:
      return cuda::Gate::relu;
    case Activation::sigmoid:
      return cuda::Gate::sigmoid;
    default:
      return cuda::Gate::identity;
  }
}

cuda::Glu glu_of(const Tensor& z, Activation function, const Tensor& factor) {
  cuda::Glu glu;
  glu.element = element_of(z);
  glu.function = gate_of(function);
  glu.width = glu.stride = z.size(-1);
  glu.rows = z.numel() / glu.width;
  glu.gate = z.data_ptr();
  glu.up = factor.data_ptr();
  return glu;
}

/// The numbers of a row next to each other.
Tensor with_whole_rows(const Tensor& x) {
  return x.stride(-1) == 1 ? x : x.contiguous();
}

/// A scan and the tensors that it points into.
struct ScanOnTensors {
  cuda::MatrixScan scan;
  Tensor q, k, v, log_gate, room;
};

ScanOnTensors scan_of(const MatrixState& all) {
  ScanOnTensors on{{}, with_whole_rows(all.q), with_whole_rows(all.k), with_whole_rows(all.v), {},
                   {}};
  if (all.log_gate.defined()) on.log_gate = all.log_gate.to(at::kFloat).contiguous();
  cuda::MatrixScan& scan = on.scan;
  scan.element = element_of(on.q);
  scan.batch = static_cast<int>(on.q.size(0));
  scan.heads = static_cast<int>(on.q.size(1));
  scan.tokens = static_cast<int>(on.q.size(2));
  scan.width = static_cast<int>(on.q.size(3));
  scan.value_width = static_cast<int>(on.v.size(3));
  scan.q = heads_of(on.q);
  scan.k = heads_of(on.k);
  scan.v = heads_of(on.v);
  scan.log_gate = floats(on.log_gate);
  on.room = row_numbers(on.q, cuda::matrix_scan_room(scan));
  scan.room = floats(on.room);
  return on;
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

bool serves_activation(const Tensor& z, Activation function, const ActivationExtras& extras) {
  return serves(z) && function != Activation::relu2 && extras.factor.defined() &&
         !extras.bias.defined() && !extras.residual.defined();
}

void activation_forward(const Tensor& z, Activation function, const ActivationExtras& extras,
                        const Tensor& y) {
  const Place place(z);
  cuda::Glu glu = glu_of(z, function, extras.factor);
  glu.y = y.data_ptr();
  succeed(cuda::glu_forward(glu, place.stream()));
}

cpu::ActivationBackward activation_backward(const Tensor& gradient, const Tensor& z,
                                            Activation function, const ActivationExtras& extras) {
  const Place place(z);
  const cpu::ActivationBackward result{at::empty_like(z), {}, at::empty_like(z)};
  succeed(cuda::glu_backward(glu_of(z, function, extras.factor),
                             {gradient.data_ptr(), result.z.data_ptr(), result.factor.data_ptr()},
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

bool serves_matrix_scan(const MatrixState& all) {
  // A block a head: the second size of a grid ends at 65535.
  constexpr int64_t kMostHeads = 65535;
  const auto alike = [&](const Tensor& x) {
    return serves(x) && x.device() == all.q.device() && x.size(-1) <= cuda::kWidestState &&
           x.numel() > 0;
  };
  return alike(all.q) && alike(all.k) && alike(all.v) &&
         all.q.size(0) * all.q.size(1) <= kMostHeads &&
         (!all.sum || (all.q.scalar_type() == at::kFloat &&
                       (!all.sum->defined() || all.sum->scalar_type() == at::kFloat)));
}

Tensor matrix_scan_forward(const MatrixState& all) {
  const Place place(all.q);
  ScanOnTensors on = scan_of(all);
  const Tensor y = merged_heads(on.q, on.q.size(1), on.q.size(2), on.v.size(3));
  on.scan.y = heads_of(y);
  Tensor initial, last;
  if (all.sum) {
    last = at::empty({on.q.size(0), on.q.size(1), on.q.size(3), on.v.size(3)}, on.q.options());
    if (all.sum->defined()) initial = all.sum->contiguous();
    on.scan.initial = floats(initial);
    on.scan.last = floats(last);
  }
  succeed(cuda::matrix_scan_forward(on.scan, place.stream()));
  if (all.sum) *all.sum = last;
  return y;
}

MatrixScanBackward matrix_scan_backward(const Tensor& gradient, const MatrixState& all) {
  const Place place(all.q);
  const ScanOnTensors on = scan_of(all);
  const Tensor along = with_whole_rows(gradient);
  const auto like = [&](const Tensor& x) {
    return merged_heads(x, x.size(1), x.size(2), x.size(3));
  };
  const MatrixScanBackward result{like(on.q), like(on.k), like(on.v),
                                  on.log_gate.defined() ? at::empty_like(on.log_gate) : Tensor()};
  succeed(cuda::matrix_scan_backward(on.scan,
                                     {heads_of(along), heads_of(result.q), heads_of(result.k),
                                      heads_of(result.v), floats(result.log_gate)},
                                     place.stream()));
  return result;
}

bool serves_row_sums(const Tensor& sparse) {
  return serves(sparse) && sparse.sparse_dim() == 1 && sparse.dense_dim() == 1 &&
         sparse._values().numel() > 0;
}

Tensor coalesced(const Tensor& sparse) {
  if (sparse.is_coalesced()) return sparse;
  const Place place(sparse);
  const Tensor values = sparse._values().contiguous();
  const auto [tokens, order] = at::sort(sparse._indices().select(0, 0), /*stable=*/true, 0, false);
  const auto [rows, inverse, counts] = at::unique_consecutive(tokens, false, /*counts=*/true);
  const Tensor starts = at::zeros({rows.size(0) + 1}, counts.options());
  starts.slice(0, 1).copy_(counts.cumsum(0));
  const Tensor sums = at::empty({rows.size(0), values.size(1)}, values.options().dtype(at::kFloat));
  cuda::SegmentSums a;
  a.element = element_of(values);
  a.segments = rows.size(0);
  a.width = values.size(1);
  a.gradient = values.data_ptr();
  a.order = order.const_data_ptr<int64_t>();
  a.starts = starts.const_data_ptr<int64_t>();
  a.rows = floats(sums);
  succeed(cuda::segment_sums(a, place.stream()));
  return at::_sparse_coo_tensor_unsafe(rows.unsqueeze(0), sums.to(values.scalar_type()),
                                       sparse.sizes(), sparse.options(), /*is_coalesced=*/true);
}

}  // namespace formwork::gpu

#include "kernels/matrix_state.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "core/error.h"
#include "kernels/cuda/binding.h"
#include "kernels/differentiated_again.h"

namespace formwork {
namespace {

void check_scan(const MatrixState& all) {
  const auto where = "matrix_state_scan";
  const Tensor &q = all.q, &k = all.k, &v = all.v, &g = all.log_gate;
  check(q.is_floating_point() && k.scalar_type() == q.scalar_type() &&
            v.scalar_type() == q.scalar_type(),
        where, "found q, k and v of ", q.scalar_type(), ", ", k.scalar_type(), " and ",
        v.scalar_type(), "; supported: one floating-point type for all");
  check(q.dim() == 4 && k.sizes() == q.sizes() && v.dim() == 4 &&
            v.sizes().slice(0, 3) == q.sizes().slice(0, 3),
        where, "found q ", q.sizes(), ", k ", k.sizes(), " and v ", v.sizes(),
        "; valid: q and k [B,H,N,K], v [B,H,N,V]");
  if (g.defined())
    check(g.sizes() == q.sizes().slice(0, 3), where, "found a log_gate ", g.sizes(), " beside q ",
          q.sizes(), "; valid: [B,H,N]");
}

/// [B,H,N,...] → [B,H,C,chunk,...], zeros after the last token.
Tensor in_chunks_of(const Tensor& x, int64_t chunk) {
  std::vector<int64_t> padding(static_cast<size_t>(2 * (x.dim() - 2)));
  padding.back() = (chunk - x.size(2) % chunk) % chunk;
  const Tensor whole = padding.back() == 0 ? x : at::constant_pad_nd(x, padding);
  return whole.unflatten(2, {whole.size(2) / chunk, chunk});
}

/// What each chunk adds to the state [B,H,C,K,V] → the state before each chunk, and after the last.
struct States {
  Tensor before, after;
};
States add_up(const Tensor& own, const Tensor& start) {
  Tensor through = own.cumsum(2);
  if (start.defined()) through = through + start.unsqueeze(2);
  const Tensor first = start.defined() ? start.unsqueeze(2) : at::zeros_like(own.narrow(2, 0, 1));
  const int64_t chunks = own.size(2);
  return {chunks == 1 ? first : at::cat({first, through.narrow(2, 0, chunks - 1)}, 2),
          through.select(2, chunks - 1)};
}
/// The same where a chunk keeps the part `kept` [B,H,C] of what was before it.
States add_up(const Tensor& own, const Tensor& kept, const Tensor& start) {
  std::vector<Tensor> before;
  Tensor state = start.defined() ? start : at::zeros_like(own.select(2, 0));
  for (int64_t c = 0; c < own.size(2); ++c) {
    before.push_back(state);
    state = state * kept.select(2, c).unsqueeze(-1).unsqueeze(-1) + own.select(2, c);
  }
  return {at::stack(before, 2), state};
}

/// By products of libtorch.
Tensor scan_by_chunks(const MatrixState& all, int64_t chunk) {
  const int64_t n = all.q.size(2);
  const bool gated = all.log_gate.defined();
  const Tensor start = all.sum ? *all.sum : Tensor();
  const int64_t size = std::min(chunk, n);
  if (size == n && !all.sum && !gated)  // one chunk, and nothing before or after it
    return at::matmul(at::matmul(all.q, all.k.transpose(-2, -1)).tril(), all.v);
  const Tensor q = in_chunks_of(all.q, size), k = in_chunks_of(all.k, size),
               v = in_chunks_of(all.v, size);
  Tensor inside = at::matmul(q, k.transpose(-2, -1));
  States states;
  Tensor seen = q;  // queries as they meet the state before their chunk
  if (gated) {
    // Padding forgets nothing, so that the last state is the last token's.
    // In float64: differences of long sums are what counts.
    const Tensor sums =
        in_chunks_of(all.log_gate.to(at::kDouble), size).cumsum(-1);  // [B,H,C,chunk]
    const Tensor passed = sums.to(q.scalar_type());
    const Tensor last = sums.narrow(-1, size - 1, 1);
    // Above the diagonal the difference is positive and may overflow: it is closed before exp.
    const Tensor gap =
        (sums.unsqueeze(-1) - sums.unsqueeze(-2))
            .to(q.scalar_type())
            .masked_fill(at::ones({size, size}, all.q.options().dtype(at::kBool)).triu(1),
                         -INFINITY);
    inside = inside * gap.exp();
    const Tensor left = (last - sums).to(q.scalar_type()).exp();
    const Tensor own = at::matmul((k * left.unsqueeze(-1)).transpose(-2, -1), v);
    states = add_up(own, passed.select(-1, size - 1).exp(), start);
    seen = q * passed.exp().unsqueeze(-1);
  } else {
    inside = inside.tril();
    states = add_up(at::matmul(k.transpose(-2, -1), v), start);
  }
  const Tensor y = at::matmul(inside, v) + at::matmul(seen, states.before);
  // A copy, so that a state does not keep the sums after every chunk alive.
  if (all.sum) *all.sum = states.after.clone(at::MemoryFormat::Contiguous);
  return y.flatten(2, 3).narrow(2, 0, n);
}

/// By the CUDA kernels; whoever differentiates the gradient again gets it by plain operators.
struct MatrixScan : torch::autograd::Function<MatrixScan> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& q, const Tensor& k,
                        const Tensor& v, const std::optional<Tensor>& log_gate) {
    const Tensor gate = log_gate.value_or(Tensor());
    context->save_for_backward({q, k, v, gate});
    return gpu::matrix_scan_forward({q, k, v, gate});
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const torch::autograd::variable_list saved = context->get_saved_variables();
    const MatrixState all{saved[0], saved[1], saved[2], saved[3]};
    if (at::GradMode::is_enabled())
      return differentiated_again(scan_by_chunks(all, kScanTokens), saved, gradients[0]);
    const gpu::MatrixScanBackward found = gpu::matrix_scan_backward(gradients[0], all);
    return {found.q, found.k, found.v,
            all.log_gate.defined() ? found.log_gate.to(all.log_gate.scalar_type()) : Tensor()};
  }

 private:
  static constexpr int64_t kScanTokens = 64;
};

/// Whether somebody will want gradients of a scan.
bool scan_trains(const MatrixState& all) {
  const auto needs = [](const Tensor& x) { return x.defined() && x.requires_grad(); };
  return at::GradMode::is_enabled() && (needs(all.q) || needs(all.k) || needs(all.v) ||
                                        needs(all.log_gate) || (all.sum && needs(*all.sum)));
}

}  // namespace

Tensor matrix_state_scan(const MatrixState& all, int64_t chunk) {
  check_scan(all);
  check(chunk >= 1, "matrix_state_scan", "found chunks of ", chunk, " tokens; valid: at least 1");
  if (all.q.size(2) == 0) return matrix_state_scan_reference(all);
  if constexpr (gpu::kBuilt) {
    if (gpu::serves_matrix_scan(all)) {
      if (!scan_trains(all)) return gpu::matrix_scan_forward(all);
      // The kernels' gradients are those of scans that start from nothing.
      if (!all.sum)
        return MatrixScan::apply(
            all.q, all.k, all.v,
            all.log_gate.defined() ? std::optional<Tensor>(all.log_gate) : std::nullopt);
    }
  }
  return scan_by_chunks(all, chunk);
}

Tensor matrix_state_scan_reference(const MatrixState& all) {
  check_scan(all);
  const Tensor &q = all.q, &k = all.k, &v = all.v;
  std::vector<int64_t> shape = k.sizes().slice(0, 2).vec();
  shape.insert(shape.end(), {k.size(3), v.size(3)});
  Tensor state = all.sum && all.sum->defined() ? *all.sum : at::zeros(shape, q.options());
  std::vector<Tensor> y;
  for (int64_t i = 0; i < q.size(2); ++i) {
    if (all.log_gate.defined())
      state = state * all.log_gate.select(2, i).exp().unsqueeze(-1).unsqueeze(-1);
    state = state + at::matmul(k.select(2, i).unsqueeze(-1), v.select(2, i).unsqueeze(-2));
    y.push_back(at::matmul(q.select(2, i).unsqueeze(-2), state).squeeze(-2));
  }
  if (all.sum) *all.sum = state;
  return y.empty() ? at::zeros_like(v) : at::stack(y, 2);
}

}  // namespace formwork

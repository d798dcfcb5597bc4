#include "methods/mixer/mixer.h"

#include <c10/core/GradMode.h>

namespace formwork {

State Mixer::make_state(int64_t, int64_t, at::ScalarType, const at::Device&) const {
  refuse("mixer", "a mixer that sees both ways keeps no state to decode with; use a causal mixer");
}

void Mixer::commit(State& state, const Tensor& kept) {
  const Tensor fed = state.fed();
  check(kept.sizes() == fed.sizes(), state.owner(), "tokens to keep have shape ", kept.sizes(),
        "; valid: ", fed.sizes(), ", one number a row");
  check((kept >= 0).all().item<bool>() &&
            (state.forgetting() == Forgetting::fixed || (kept <= fed).all().item<bool>()),
        state.owner(), "a row can keep from 0 to as many tokens as it was fed since begin()");
  if (state.can_crop(fed - kept)) {
    state.end_block();
    state.crop(fed - kept);
    return;
  }
  State::Block block = state.end_block();
  state.tensors = std::move(block.tensors);
  state.length = std::move(block.length);
  const c10::NoGradGuard no_grad;
  const Tensor inputs = at::cat(block.inputs, 1);
  const Tensor valid = at::cat(block.valid, 1);
  Stream stream;
  const Tensor kept_tokens = valid.logical_and(valid.cumsum(1) <= kept.unsqueeze(1));
  stream.positions = state.next_positions(inputs.size(1), kept_tokens).to(inputs.device());
  stream.valid = kept_tokens.to(inputs.device());
  forward(inputs, stream, &state);
}

Tensor positions_of(const Stream& stream, const Tensor& x, const State* state) {
  if (stream.positions.defined()) return stream.positions;
  if (state) return state->next_positions(x.size(1), stream.valid).to(x.device());
  return at::arange(x.size(1), x.options().dtype(at::kLong));
}

Tensor hide_invalid(const Tensor& y, const Tensor& valid) {
  return valid.defined() ? y.masked_fill(valid.logical_not().unsqueeze(-1), 0) : y;
}

}  // namespace formwork

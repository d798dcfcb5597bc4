#include "methods/mixer/mixer.h"

namespace formwork {

State Mixer::make_state(int64_t, int64_t, at::ScalarType, const at::Device&) const {
  refuse("mixer", "a mixer that sees both ways keeps no state to decode with; use a causal mixer");
}

void Mixer::commit(State& state, const Tensor& kept) {
  check(state.in_block(), state.owner(),
        "commit without begin; call begin() before the tokens that may be dropped");
  State::Block block = std::move(state.block());
  state.block() = {};
  int64_t fed = 0;
  for (const Tensor& input : block.inputs) fed += input.size(1);
  if (state.forgetting() != Forgetting::snapshot) {
    state.crop(fed - kept);
    return;
  }
  State start = std::move(block.snapshot.front());
  state.tensors = std::move(start.tensors);
  state.length = std::move(start.length);
  Stream stream;
  const Tensor inputs = at::cat(block.inputs, 1);
  stream.valid = at::arange(fed).unsqueeze(0) < kept.unsqueeze(1);
  stream.positions = state.next_positions(fed, stream.valid);
  forward(inputs, stream, &state);
}

}  // namespace formwork

#include "methods/mixer/ring.h"

#include "methods/mixer/attention.h"

namespace formwork {
namespace {

/// x [B,H,N,K], index [B,M] → [B,H,M,K].
Tensor gather_tokens(const Tensor& x, const Tensor& index) {
  const Tensor whole = index.unsqueeze(1).unsqueeze(-1).expand({-1, x.size(1), -1, x.size(3)});
  return x.gather(2, whole);
}

}  // namespace

Tensor RingWindow::join(const Tensor& held, const Tensor& fresh) const {
  return gather_tokens(at::cat({held, fresh}, 2), source);
}

Tensor RingWindow::queries(const Tensor& fresh) const {
  return gather_tokens(fresh, (source - ring).clamp_min(0));
}

Tensor RingWindow::take(const Tensor& y) const {
  return gather_tokens(y, place);
}

RingFeed::RingFeed(const State& state, int64_t n, const Tensor& valid, const at::Device& device) {
  before_ = state.length.unsqueeze(1).to(device);
  places_ = state.next_positions(n, valid).to(device);
  all_valid_ = all_valid(valid);
  after_ = all_valid_ ? before_ + n : before_ + valid.to(at::kLong).sum(1, true).to(device);
  order_ = all_valid_ ? at::arange(n, before_.options()).expand({state.batch(), n})
                      : at::argsort(valid.logical_not(), /*stable=*/true, 1, false);
  fresh_ = all_valid_ && state.common_length() == 0;
}

Tensor RingFeed::token_at(const Tensor& positions) const {
  return order_.gather(1, (positions - before_).clamp(0, order_.size(1) - 1));
}

Tensor RingFeed::held(int64_t ring) const {
  const Tensor newest = after_ - 1;
  const Tensor slot = at::arange(ring, newest.options());
  return newest - (newest - slot).remainder(ring);
}

Tensor RingFeed::push(Tensor ring, const Tensor& fresh) const {
  const int64_t slots = ring.size(2);
  if (all_valid_ && fresh.size(2) == 1) {
    // In place: a decoding step allocates nothing that grows with the ring.
    const Tensor slot = before_.remainder(slots).unsqueeze(1).unsqueeze(-1);
    ring.scatter_(2, slot.expand_as(fresh), fresh.to(ring.scalar_type()));
    return ring;
  }
  const Tensor positions = held(slots);
  const Tensor slot = at::arange(slots, positions.options());
  const Tensor source = at::where(positions >= before_, token_at(positions) + slots, slot);
  return gather_tokens(at::cat({ring, fresh.to(ring.scalar_type())}, 2), source);
}

RingWindow RingFeed::window(int64_t ring, int64_t reach, int64_t border) const {
  RingWindow window;
  window.ring = ring;
  // With borders, the reach counts from the last token of a block: look back from its first.
  const Tensor last = border == 1 ? before_ : before_.floor_divide(border) * border + border - 1;
  const Tensor first = (last - reach).clamp_min(0);
  const int64_t width = (after_ - first).max().item<int64_t>();
  window.positions = first + at::arange(std::max<int64_t>(width, 1), first.options());
  window.source = at::where(window.positions < before_, window.positions.remainder(ring),
                            token_at(window.positions) + ring);
  window.place = (places_ - first).clamp_max(window.positions.size(1) - 1);
  return window;
}

}  // namespace formwork

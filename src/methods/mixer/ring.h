// Keeping the last R tokens of every row in a ring, rows of different lengths included.
#pragma once

#include "methods/state.h"

namespace formwork {

/// What an attention over the ring and the new tokens sees, row by row on one axis of C places:
/// first the tokens of the ring that may still be seen, then the new valid tokens; what follows is
/// too late to be seen by a causal query.
struct RingWindow {
  Tensor source;     // [B,C] place in ring (0..R-1) or R + new token
  Tensor positions;  // [B,C] how many tokens of the row came before
  Tensor place;      // [B,n] where each new token stands
  int64_t ring = 0;  // R

  /// ring [B,H,R,K] and new [B,H,n,K] → [B,H,C,K].
  Tensor join(const Tensor& held, const Tensor& fresh) const;
  /// new [B,H,n,K] → [B,H,C,K]; places that are not new hold a token that nobody takes.
  Tensor queries(const Tensor& fresh) const;
  /// [B,H,C,K] → those of the new tokens [B,H,n,K].
  Tensor take(const Tensor& y) const;
};

/// The next n tokens of every row of a state whose ring keeps position p in slot p mod R.
class RingFeed {
 public:
  RingFeed(const State& state, int64_t n, const Tensor& valid, const at::Device& device);

  /// No row holds a token and all new ones are valid.
  bool fresh() const { return fresh_; }
  /// Positions [B,n] of the new tokens.
  const Tensor& places() const { return places_; }
  /// The ring [B,H,R,K] after the new tokens [B,H,n,K], the same memory where one token a row
  /// comes; rows without a valid token keep their bits.
  Tensor push(Tensor ring, const Tensor& fresh) const;
  /// Positions [B,R] that the slots of a ring of R hold after the push; negative = none.
  Tensor held(int64_t ring) const;
  /// `reach`: the farthest back a token looks; rows begin at multiples of `border`.
  RingWindow window(int64_t ring, int64_t reach, int64_t border) const;

 private:
  /// The new token [B,M] that stands at each of `positions` [B,M], clamped to those there are.
  Tensor token_at(const Tensor& positions) const;

  Tensor before_, after_;  // [B,1] lengths
  Tensor places_;          // [B,n]
  Tensor order_;           // [B,n] the new tokens, valid ones first
  bool all_valid_, fresh_;
};

}  // namespace formwork

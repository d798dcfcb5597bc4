// Tensors kept for every token of a row, for mixers that decode from all earlier tokens.
#pragma once

#include <utility>
#include <vector>

#include "methods/mixer/attention.h"
#include "methods/state.h"

namespace formwork {

/// What new tokens see of a cache.
struct CacheView {
  int64_t total = 0;     // places of the cache that hold tokens of the longest row
  Tensor places;         // [1 or B,n] where each new token stands in its row
  bool together = true;  // all rows stand at the same place and no token is invalid

  /// bool [1,1,n,total] or [B,1,n,total]: the places up to each token's own.
  Tensor allowed() const;
  /// Lets each new token see the places up to its own, by the cheapest means: a first part sees its
  /// own past, one token sees everything, and neither needs a mask.
  void limit(Scores& scores) const;
};

/// An append-only state of `names`, each [B,heads,capacity,width]; refuses a capacity below 1.
State make_token_cache(const char* owner, const std::vector<const char*>& names,
                       const std::vector<int64_t>& widths, int64_t heads, int64_t batch,
                       int64_t capacity, const at::TensorOptions& options);

/// Writes the next n tokens' tensors [B,heads,n,width] to their places in the state's tensors of
/// those names. The state does not advance: a mixer that is evaluated several times in a pass does
/// that after the last.
CacheView write_tokens(State& state, const std::vector<std::pair<const char*, Tensor>>& tokens,
                       const Tensor& valid);
/// write_tokens, and advances the state.
CacheView keep_tokens(State& state, const std::vector<std::pair<const char*, Tensor>>& tokens,
                      const Tensor& valid);

}  // namespace formwork

// The momentum that tokens start with.
#pragma once

#include "methods/position/position.h"
#include "methods/site.h"
#include "methods/stream.h"

namespace formwork {

/// A vector for the token plus one for its position, from tables of their own, N(0, 0.02).
class MomentumTables final : public Module {
 public:
  /// Refuses sites that know no tokens; `key` is the option that asks for tables.
  MomentumTables(const Site& site, const std::string& key);
  /// [B,N,D] for stream.tokens; a class token before them has the position's vector alone.
  Tensor start(const Stream& stream) const;

 private:
  Tensor tokens_;
  std::shared_ptr<Position> positions_;
};

}  // namespace formwork

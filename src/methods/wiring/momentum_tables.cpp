#include "methods/wiring/momentum_tables.h"

namespace formwork {

MomentumTables::MomentumTables(const Site& site, const std::string& key) {
  check(site.vocabulary > 0, key,
        "'token_table' needs token ids, which this model's input has not; valid: zero");
  const RandomStream random = site.random.child("momentum");
  tokens_ = add_parameter(
      "tokens", normal_tensor({site.vocabulary, site.width}, 0.02, random.child("tokens")),
      Role::embedding);
  PositionSite where;
  where.width = site.width;
  where.length = site.length;
  where.random = random.child("positions");
  positions_ = add_module("positions", Choice<Position>("learned").make(where));
}

Tensor MomentumTables::start(const Stream& stream) const {
  Tensor momentum = at::embedding(tokens_, stream.tokens);
  const int64_t before = stream.x.size(1) - momentum.size(1);
  if (before > 0) momentum = at::constant_pad_nd(momentum, {0, 0, before, 0});
  return positions_->add(momentum, stream.positions).to(stream.x.scalar_type());
}

}  // namespace formwork

#include "methods/position/position.h"

namespace formwork {
namespace {

/// Nothing tells positions: a decoder infers order from what it may see, an encoder sees a set.
class NoPosition final : public Position {
 public:
  NoPosition(const NoOptions&, const PositionSite&) {}
};

const Register<Position, NoPosition> no_position{"none", "no positions", cite("no paper"),
                                                 specified_by("position_baselines")};

}  // namespace
}  // namespace formwork

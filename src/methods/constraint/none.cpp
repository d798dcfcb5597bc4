#include "methods/constraint/constraint.h"

namespace formwork {
namespace {

class NoConstraint final : public Constraint {
 public:
  NoConstraint(const NoOptions&, const ConstraintSite&) {}
};

const Register<Constraint, NoConstraint> no_constraint{
    "none", "nothing is enforced", cite("no paper"), specified_by("optimizer_baselines")};

}  // namespace
}  // namespace formwork

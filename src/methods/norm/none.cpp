#include "methods/norm/norm.h"

namespace formwork {
namespace {

/// The vectors as they are.
class NoNorm final : public Norm {
 public:
  NoNorm(const NoOptions&, const NormSite&) {}
  static Traits traits(const NoOptions&) { return {.normalises = false}; }
  Tensor forward(const Tensor& x, const Tensor&) override { return x; }
};

const Register<Norm, NoNorm> no_norm{"none", "no normalisation", cite("no paper"),
                                     specified_by("norm_baselines")};

}  // namespace
}  // namespace formwork

#include "methods/wiring/wiring.h"

namespace formwork {
namespace {

/// x ← x + F(x): a residual stream without any norm.
class None final : public Wiring {
 public:
  None(const NoOptions&, const Site& site) : Wiring(site) {}
  void forward(Stream& stream, const Sublayer& sublayer) override {
    stream.x = add(stream, stream.x, sublayer(stream.x));
  }
};

const Register<Wiring, None> no_wiring{"none", "residual addition without norms",
                                       cite("He et al. 2016, 1512.03385"), specified_by("peri_ln")};

}  // namespace
}  // namespace formwork

#include "methods/wiring/wiring.h"

namespace formwork {
namespace {

/// x ← x + F(Norm(x)); the model ends with a final norm.
class Pre final : public Wiring {
 public:
  Pre(const NoOptions&, const Site& site)
      : Wiring(site), norm_in_(add_module("norm_in", site.make_norm(site.width))) {}
  static Traits traits(const NoOptions&) { return {.final_norm = true}; }
  void forward(Stream& stream, const Sublayer& sublayer) override {
    stream.x = add(stream, stream.x, sublayer(norm_in_->forward(stream.x, stream.valid)));
  }

 private:
  std::shared_ptr<Norm> norm_in_;
};

const Register<Wiring, Pre> pre{"pre", "norm before the sublayer (Pre-LN)",
                                cite("Xiong et al. 2020, 2002.04745"), specified_by("peri_ln")};

}  // namespace
}  // namespace formwork

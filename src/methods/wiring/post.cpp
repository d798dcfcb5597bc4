#include "methods/wiring/wiring.h"

namespace formwork {
namespace {

/// x ← Norm(x + F(x)), as in the first Transformer.
class Post final : public Wiring {
 public:
  Post(const NoOptions&, const Site& site)
      : Wiring(site), norm_res_(add_module("norm_res", site.make_norm(site.width))) {}
  void forward(Stream& stream, const Sublayer& sublayer) override {
    stream.x = add_and_norm(stream, stream.x, sublayer(stream.x), *norm_res_);
  }

 private:
  std::shared_ptr<Norm> norm_res_;
};

const Register<Wiring, Post> post{"post", "norm after the residual addition (Post-LN)",
                                  cite("Vaswani et al. 2017, 1706.03762"), specified_by("peri_ln")};

}  // namespace
}  // namespace formwork

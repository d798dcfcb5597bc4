#include "methods/wiring/wiring.h"

namespace formwork {
namespace {

/// Bottom-to-top: post-norm whose last sublayer also adds the layer's input,
/// a = N1(x + F1(x)), x ← N2(x + a + F2(a)).
class BottomToTop final : public Wiring {
 public:
  BottomToTop(const NoOptions&, const Site& site)
      : Wiring(site), norm_res_(add_module("norm_res", site.make_norm(site.width))) {}
  static Traits traits(const NoOptions&) { return {.whole_layer = true}; }

  void forward(Stream& stream, const Sublayer& sublayer) override {
    Tensor sum = add(stream, stream.x, sublayer(stream.x));
    if (stream.last_sublayer) {
      check(stream.layer_input.size(1) == sum.size(1), stream.place,
            "b2t adds the layer's input again, but this layer's mixer shortens the sequence; use "
            "wiring post");
      sum = sum + stream.layer_input;
    }
    stream.x = norm_res_->forward(sum, stream.valid);
  }

 private:
  std::shared_ptr<Norm> norm_res_;
};

const Register<Wiring, BottomToTop> b2t{"b2t", "post-norm with a bottom-to-top connection",
                                        cite("Takase et al. 2022, 2206.00330"),
                                        specified_by("peri_ln")};

}  // namespace
}  // namespace formwork

#include "methods/wiring/wiring.h"

namespace formwork {
namespace {

struct PreOptions {
  std::optional<double> layer_scale;
  void describe(OptionSet& o) {
    o.add("layer_scale", layer_scale,
          "start of a trained factor a channel on the branch (LayerScale); absent = none");
  }
};

/// x ← x + F(Norm(x)), or x + scale · F(Norm(x)) with LayerScale (Touvron et al. 2021, arXiv
/// 2103.17239); the model ends with a final norm.
class Pre final : public Wiring {
 public:
  Pre(const PreOptions& options, const Site& site)
      : Wiring(site), norm_in_(add_module("norm_in", site.make_norm(site.width))) {
    if (options.layer_scale)
      scale_ =
          add_parameter("layer_scale", at::full({site.width}, *options.layer_scale), Role::norm);
  }
  static Traits traits(const PreOptions&) { return {.final_norm = true, .norm_first = true}; }
  void forward(Stream& stream, const Sublayer& sublayer) override {
    const Tensor branch = sublayer(norm_in_->forward(stream.x, stream.valid));
    stream.x = add(stream, stream.x, scale_.defined() ? branch * scale_ : branch);
  }
  Tensor branch_scale() const override { return scale_; }

 private:
  std::shared_ptr<Norm> norm_in_;
  Tensor scale_;
};

const Register<Wiring, Pre, PreOptions> pre{"pre", "norm before the sublayer (Pre-LN)",
                                            cite("Xiong et al. 2020, 2002.04745"),
                                            specified_by("peri_ln")};

}  // namespace
}  // namespace formwork

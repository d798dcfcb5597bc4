#include "methods/dropout.h"
#include "methods/wiring/wiring.h"

namespace formwork {
namespace {

struct ScaledOptions {
  double coef_init = 1.0;
  double drop_path = 0.0;
  void describe(OptionSet& o) {
    o.add("coef_init", coef_init, "start of both trained numbers");
    o.add(
        "drop_path", drop_path,
        "stochastic depth: rate at which an item loses the whole branch in training; grows from 0 "
        "in the first block to this at the end of the model",
        fraction());
  }
};

/// x ← a·x + b·F(Norm(x)) with trained numbers a and b, so that hundreds of layers with the same
/// parameters can weigh what they add; the model ends with a final norm. Drop path multiplies F by
/// 0 or 1/(1 - p) item by item, p = drop_path · block / layers. Shen et al. 2021, arXiv 2111.05297;
/// Huang et al. 2016 (stochastic depth), arXiv 1603.09382.
class Scaled final : public Wiring {
 public:
  Scaled(const ScaledOptions& options, const Site& site)
      : Wiring(site),
        drop_path_(options.drop_path * static_cast<double>(site.layer) /
                   static_cast<double>(std::max<int64_t>(1, site.depth))),
        norm_in_(add_module("norm_in", site.make_norm(site.width))),
        coef1_(add_parameter("coef1", at::full({1}, options.coef_init), Role::norm)),
        coef2_(add_parameter("coef2", at::full({1}, options.coef_init), Role::norm)) {}
  static Traits traits(const ScaledOptions&) { return {.final_norm = true, .norm_first = true}; }

  void forward(Stream& stream, const Sublayer& sublayer) override {
    Tensor branch = sublayer(norm_in_->forward(stream.x, stream.valid));
    if (training() && drop_path_ > 0.0)
      branch =
          branch * dropped(at::ones({branch.size(0), 1, 1}, branch.options()), drop_path_, true);
    stream.x = add(stream, stream.x * coef1_, branch * coef2_);
  }

 private:
  double drop_path_;
  std::shared_ptr<Norm> norm_in_;
  Tensor coef1_, coef2_;
};

const Register<Wiring, Scaled, ScaledOptions> scaled{
    "scaled", "norm before the sublayer, trained numbers on the stream and on the branch",
    cite("2111.05297"), specified_by("sret")};

}  // namespace
}  // namespace formwork

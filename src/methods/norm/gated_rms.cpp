#include "kernels/gated_rms.h"
#include "methods/norm/norm.h"

namespace formwork {
namespace {

struct GatedRmsOptions {
  double eps = 1e-8;
  void describe(OptionSet& o) { o.add("eps", eps, "added to the root mean square", above(0)); }
};

/// n · scale · sigmoid(gate · x) with n = x / (sqrt(mean x²) + eps); scale and gate [D] are trained
/// and 1 at the start. Zhang, Titov, Sennrich 2021, arXiv 2104.07012.
class GatedRms final : public Norm {
 public:
  GatedRms(const GatedRmsOptions& options, const NormSite& site)
      : eps_(options.eps),
        scale_(add_parameter("scale", at::ones({site.width}), Role::norm)),
        gate_(add_parameter("gate", at::ones({site.width}), Role::norm)) {}

  Tensor forward(const Tensor& x, const Tensor&) override {
    return gated_rms(x, scale_, gate_, eps_);
  }
  Tensor gain() const override { return scale_; }

 private:
  double eps_;
  Tensor scale_, gate_;
};

const Register<Norm, GatedRms, GatedRmsOptions> gated_rms{
    "gated_rms", "root mean square 1 for every token, times a gate made of it", cite("2104.07012"),
    specified_by("transnormer")};

}  // namespace
}  // namespace formwork

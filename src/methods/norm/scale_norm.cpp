#include <cmath>

#include "kernels/rms_norm.h"
#include "methods/norm/norm.h"

namespace formwork {
namespace {

struct ScaleNormOptions {
  double eps = 1e-5;
  void describe(OptionSet& o) { o.add("eps", eps, "least length that is divided by", above(0)); }
};

/// g · x / max(‖x‖₂, eps) with one trained number g, sqrt(D) at the start.
/// Nguyen, Salazar 2019, arXiv 1910.05895.
class ScaleNorm final : public Norm {
 public:
  ScaleNorm(const ScaleNormOptions& options, const NormSite& site)
      : eps_(options.eps),
        g_(add_parameter("g", at::full({1}, std::sqrt(static_cast<double>(site.width))),
                         Role::norm)) {}
  Tensor forward(const Tensor& x, const Tensor&) override {
    // The length of a token is sqrt(D) times the root mean square of its channels.
    const double root = std::sqrt(static_cast<double>(x.size(-1)));
    return rms_norm_at_least(x, (g_ / root).expand({x.size(-1)}), eps_ / root);
  }
  Tensor gain() const override { return g_; }

 private:
  double eps_;
  Tensor g_;
};

const Register<Norm, ScaleNorm, ScaleNormOptions> scale_norm{
    "scale_norm", "one length for every token", cite("1910.05895"), specified_by("norm_baselines")};

}  // namespace
}  // namespace formwork

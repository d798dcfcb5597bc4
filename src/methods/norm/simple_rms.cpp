#include "kernels/rms_norm.h"
#include "methods/norm/norm.h"

namespace formwork {
namespace {

struct SimpleRmsOptions {
  double eps = 1e-8;
  void describe(OptionSet& o) { o.add("eps", eps, "added to the root mean square", above(0)); }
};

/// x / (sqrt(mean x²) + eps), nothing trained. Qin et al. 2022, arXiv 2210.10340.
class SimpleRms final : public Norm {
 public:
  SimpleRms(const SimpleRmsOptions& options, const NormSite&) : eps_(options.eps) {}

  Tensor forward(const Tensor& x, const Tensor&) override {
    return rms_norm_outside(x, Tensor(), eps_);
  }

 private:
  double eps_;
};

const Register<Norm, SimpleRms, SimpleRmsOptions> simple_rms{
    "simple_rms", "root mean square 1 for every token, without a scale", cite("2210.10340"),
    specified_by("transnormer")};

}  // namespace
}  // namespace formwork

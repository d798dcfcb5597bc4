#include <cmath>

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
    const auto type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const double root_width = std::sqrt(static_cast<double>(x.size(-1)));
    const Tensor root = at::linalg_vector_norm(x, 2, {-1}, true, type) / root_width;
    return (x * (root + eps_).reciprocal()).to(x.scalar_type());
  }

 private:
  double eps_;
};

const Register<Norm, SimpleRms, SimpleRmsOptions> simple_rms{
    "simple_rms", "root mean square 1 for every token, without a scale", cite("2210.10340"),
    specified_by("transnormer")};

}  // namespace
}  // namespace formwork

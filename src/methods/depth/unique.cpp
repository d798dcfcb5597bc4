#include <numeric>

#include "methods/depth/depth.h"

namespace formwork {
namespace {

/// Every layer has its own parameters.
class Unique final : public Depth {
 public:
  Unique(const NoOptions&, const Site&) {}
  DepthPlan plan(int64_t depth) const override {
    DepthPlan plan{depth, std::vector<int64_t>(static_cast<size_t>(depth))};
    std::iota(plan.order.begin(), plan.order.end(), int64_t{0});
    return plan;
  }
};

const Register<Depth, Unique> unique{"unique", "every layer has its own parameters",
                                     cite("Vaswani et al. 2017, 1706.03762"), specified_by("")};

}  // namespace
}  // namespace formwork

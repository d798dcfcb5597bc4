#include "methods/depth/depth.h"

namespace formwork {
namespace {

struct SharedOptions {
  int64_t groups = 1;
  void describe(OptionSet& o) {
    o.add("groups", groups, "sets of parameters; consecutive layers share one", at_least(1));
  }
};

/// Consecutive layers share parameters: layer l uses set floor(l·groups/L). Lan et al. 2019
/// (ALBERT).
class Shared final : public Depth {
 public:
  Shared(const SharedOptions& options, const Site& site) : groups_(options.groups) {
    check(groups_ <= site.depth, "model.depth_plan.groups", "found ", groups_,
          "; valid: at most model.depth, ", site.depth);
  }
  DepthPlan plan(int64_t depth) const override {
    DepthPlan plan{groups_, {}};
    for (int64_t layer = 0; layer < depth; ++layer) plan.order.push_back(layer * groups_ / depth);
    return plan;
  }

 private:
  int64_t groups_;
};

const Register<Depth, Shared, SharedOptions> shared{"shared", "consecutive layers share parameters",
                                                    cite("1909.11942"), specified_by("")};

}  // namespace
}  // namespace formwork

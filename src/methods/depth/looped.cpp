#include "methods/depth/depth.h"

namespace formwork {
namespace {

struct LoopedOptions {
  int64_t loops = 2;
  bool inject_input = false;
  void describe(OptionSet& o) {
    o.add("loops", loops, "times the stack of model.depth layers is applied", at_least(1));
    o.add("inject_input", inject_input, "add the embedded tokens again before each further loop");
  }
};

/// The whole stack applied `loops` times with the same parameters: depth·loops applications.
/// Dehghani et al. 2018 (Universal Transformer); input injection as in Giannou et al. 2023.
class Looped final : public Depth {
 public:
  Looped(const LoopedOptions& options, const Site& site) : options_(options), stack_(site.depth) {}

  DepthPlan plan(int64_t depth) const override {
    DepthPlan plan{depth, {}};
    for (int64_t i = 0; i < depth * options_.loops; ++i) plan.order.push_back(i % depth);
    return plan;
  }

  void run(Stream& stream, const std::function<void(int64_t)>& apply,
           int64_t applications) override {
    const Tensor embedded = stream.x;
    for (int64_t i = 0; i < applications; ++i) {
      if (options_.inject_input && i > 0 && i % stack_ == 0) {
        check(embedded.size(1) == stream.x.size(1), "model.depth_plan.inject_input",
              "a mixer of this model shortens the sequence, so the embedded tokens no longer fit; "
              "set it to false");
        stream.x = stream.x + embedded;
      }
      apply(i);
    }
  }

 private:
  LoopedOptions options_;
  int64_t stack_;
};

const Register<Depth, Looped, LoopedOptions> looped{
    "looped", "the stack applied several times with the same parameters", cite("1807.03819"),
    specified_by("")};

}  // namespace
}  // namespace formwork

#include "methods/wiring/momentum_tables.h"
#include "methods/wiring/velocity.h"

namespace formwork {
namespace {

struct NesterovOptions {
  std::string momentum_init = "token_table";
  double scalar_rate = 10.0;
  void describe(OptionSet& o) {
    o.add("momentum_init", momentum_init,
          "velocity before the first layer: zero, or token and position tables of its own",
          one_of({"zero", "token_table"}));
    o.add("scalar_rate", scalar_rate, "factor on the learning rate of the trained scalars",
          above(0));
  }
};

/// Mixer and channel push one velocity in turn (velocity.h), normed by one norm a layer: the
/// Lie-Trotter form of Nesterov's accelerated descent. Works with every mixer. The model ends with
/// a final norm.
class Nesterov final : public Wiring {
 public:
  Nesterov(const NesterovOptions& options, const Site& site) : Wiring(site) {
    VelocityStepOptions step;
    step.scalar_rate = options.scalar_rate;
    const auto first = std::dynamic_pointer_cast<Nesterov>(site.mixer_wiring);
    if (first) step.norm_v = first->step_->norm_v();
    step_ = add_module("", std::make_shared<VelocityStep>(step, site));
    if (options.momentum_init == "token_table" && site.layer == 0 && !site.mixer_wiring)
      tables_ = add_module("momentum", std::make_shared<MomentumTables>(
                                           site, "model.wiring.nesterov.momentum_init"));
  }
  static Traits traits(const NesterovOptions&) { return {.final_norm = true}; }

  void forward(Stream& stream, const Sublayer& sublayer) override {
    Tensor& velocity = stream.carried["nesterov.velocity"];
    if (!velocity.defined() && tables_) velocity = tables_->start(stream);
    step_->forward(stream, velocity, [&](const Tensor& x) { return drop(sublayer(x)); });
  }

 private:
  std::shared_ptr<VelocityStep> step_;
  std::shared_ptr<MomentumTables> tables_;
};

const Register<Wiring, Nesterov, NesterovOptions> nesterov{
    "nesterov", "sublayers push a velocity that moves the stream (YuriiFormer)", cite("2601.23236"),
    specified_by("sympformer")};

}  // namespace
}  // namespace formwork

#include <cmath>

#include "methods/channel/channel.h"
#include "methods/dropout.h"

namespace formwork {
namespace {

struct GluOptions {
  std::string gate = "swiglu";
  std::optional<int64_t> hidden;
  std::optional<double> ratio;
  int64_t multiple_of = 64;
  bool bias = false;
  double dropout = 0.0;
  void describe(OptionSet& o) {
    o.add("gate", gate, "the function on the gate: silu, gelu, gelu_tanh, relu, sigmoid, identity",
          one_of({"swiglu", "geglu", "geglu_tanh", "reglu", "glu", "bilinear"}));
    o.add("hidden", hidden, "width F between the maps, used as given; default: by ratio",
          at_least(1));
    o.add("ratio", ratio, "F = ratio · D rounded up to multiple_of; default: 8/3", above(0));
    o.add("multiple_of", multiple_of, "F is rounded up to a multiple of this", at_least(1));
    o.add("bias", bias, "all three maps have a bias");
    o.add("dropout", dropout, "after the product and after the last map", fraction());
    o.require(
        "hidden", [this] { return !hidden || !ratio; },
        "is given together with ratio; valid: one of the two");
  }
  int64_t width_inside(int64_t width) const {
    if (hidden) return *hidden;
    const double wanted = ratio.value_or(8.0 / 3.0) * static_cast<double>(width);
    // A whole number must not be rounded up for its last bit.
    const double blocks = std::ceil(wanted / static_cast<double>(multiple_of) - 1e-9);
    return std::max<int64_t>(1, static_cast<int64_t>(blocks)) * multiple_of;
  }
};

std::string function_of(const std::string& gate) {
  if (gate == "swiglu") return "silu";
  if (gate == "geglu") return "gelu";
  if (gate == "geglu_tanh") return "gelu_tanh";
  if (gate == "reglu") return "relu";
  return gate == "glu" ? "sigmoid" : "identity";
}

/// y = W_down (f(W_gate x + b_gate) · (W_up x + b_up)) + b_down, f on the gate only; 6·D·F
/// operations a token. Dauphin et al. 2017, arXiv 1612.08083; Shazeer 2020, arXiv 2002.05202.
class Glu final : public Channel {
 public:
  Glu(const GluOptions& options, const Site& site)
      : dropout_(options.dropout), function_(activation_named(function_of(options.gate))) {
    const int64_t hidden = options.width_inside(site.width);
    gate_ = add_module("gate", site.linear("gate", site.width, hidden, Role::gate, options.bias));
    up_ = add_module("up", site.linear("up", site.width, hidden, Role::up, options.bias));
    down_ = add_module("down", site.linear("down", hidden, site.width, Role::down, options.bias));
  }

  Tensor forward(const Tensor& x, Stream& stream) override {
    const Tensor up = up_->forward(x);
    const Tensor hidden = activate(gate_->forward(x), function_, {{}, up, {}});
    stream.show("hidden", hidden);
    const Tensor kept = dropped(hidden, dropout_, training());
    return dropped(down_->forward(kept), dropout_, training());
  }

 private:
  double dropout_;
  Activation function_;
  std::shared_ptr<Linear> gate_, up_, down_;
};

const Register<Channel, Glu, GluOptions> glu{"glu", "a gated linear unit", cite("2002.05202"),
                                             specified_by("ffn_baselines")};

}  // namespace
}  // namespace formwork

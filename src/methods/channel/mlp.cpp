#include <cmath>

#include "methods/channel/channel.h"
#include "methods/dropout.h"

namespace formwork {
namespace {

struct MlpOptions {
  std::string act = "gelu";
  std::optional<int64_t> hidden;
  std::optional<double> ratio;
  bool bias = true;
  double dropout = 0.0;
  void describe(OptionSet& o) {
    o.add("act", act, "the function between the two maps",
          one_of({"gelu", "gelu_tanh", "relu", "relu2", "silu"}));
    o.add("hidden", hidden, "width F between the maps; default: by ratio", at_least(1));
    o.add("ratio", ratio, "F = round(ratio · D); default: 4", above(0));
    o.add("bias", bias, "both maps have a bias");
    o.add("dropout", dropout, "after the function and after the second map", fraction());
    o.require(
        "hidden", [this] { return !hidden || !ratio; },
        "is given together with ratio; valid: one of the two");
  }
};

/// y = W_down act(W_up x + b_up) + b_down; 4·D·F operations a token.
/// Hendrycks, Gimpel 2016 (GELU), arXiv 1606.08415; So et al. 2021 (squared ReLU), 2109.08668.
class Mlp final : public Channel {
 public:
  Mlp(const MlpOptions& options, const Site& site)
      : dropout_(options.dropout), act_(activation_named(options.act)) {
    const int64_t hidden = options.hidden.value_or(
        std::llround(options.ratio.value_or(4.0) * static_cast<double>(site.width)));
    check(hidden >= 1, "channel.ratio", "found ", options.ratio.value_or(4.0), " with width ",
          site.width, "; valid: a ratio that gives at least one hidden channel");
    up_ = add_module("up", site.linear("up", site.width, hidden, Role::up, options.bias));
    down_ = add_module("down", site.linear("down", hidden, site.width, Role::down, options.bias));
  }

  Tensor forward(const Tensor& x, Stream& stream) override {
    const Tensor hidden = up_->activated(x, act_);
    stream.show("hidden", hidden);
    const Tensor kept = dropped(hidden, dropout_, training());
    return dropped(down_->forward(kept), dropout_, training());
  }

 private:
  double dropout_;
  Activation act_;
  std::shared_ptr<Linear> up_, down_;
};

const Register<Channel, Mlp, MlpOptions> mlp{"mlp", "two linear maps and a function between them",
                                             cite("1606.08415"), specified_by("ffn_baselines")};

}  // namespace
}  // namespace formwork

#include "methods/channel/channel.h"

namespace formwork {
namespace {

/// No channel sublayer: the model leaves it out together with its norm and residual.
class NoChannel final : public Channel {
 public:
  NoChannel(const NoOptions&, const Site&) {}
  static Traits traits(const NoOptions&) { return {.present = false}; }
  Tensor forward(const Tensor& x, Stream&) override { return x; }
};

const Register<Channel, NoChannel> no_channel{"none", "no channel sublayer", cite("no paper"),
                                              specified_by("ffn_baselines")};

}  // namespace
}  // namespace formwork

// Every reference number of the baseline channels.
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "methods/channel/channel.h"
#include "support/golden.h"

namespace formwork {
namespace {

std::shared_ptr<Channel> build(const GoldenCase& golden, const std::string& kind) {
  const std::vector<std::string> plain = {"gelu", "gelu_tanh", "relu", "relu2", "silu"};
  const bool gated = std::find(plain.begin(), plain.end(), kind) == plain.end();
  const Tensor& up = golden.at("param.ffn.up.weight");
  Site site = plain_site(up.size(1));
  const auto channel = Choice<Channel>(gated ? "glu" : "mlp")
                           .set({{gated ? "gate" : "act", kind},
                                 {"hidden", golden.option("F", up.size(0))},
                                 {"bias", golden.option("bias", golden.has("param.ffn.up.bias"))}})
                           .make(site);
  channel->to(at::kDouble);
  const c10::NoGradGuard no_grad;
  for (const auto& [name, tensor] : channel->named_tensors())
    Tensor(tensor).copy_(golden.at("param.ffn." + name));
  return channel;
}

TEST(golden, ffn_baselines) {
  for (const GoldenCase& golden : golden_cases("ffn_baselines")) {
    const auto kinds = golden.option("kinds", std::vector<std::string>{});
    EXPECT_FALSE(kinds.empty()) << golden.file;
    for (const std::string& kind : kinds) {
      const auto channel = build(golden, kind);
      const Tensor x = golden.at("in.x").clone().requires_grad_(true);
      Stream stream;
      const Tensor y = channel->forward(x, stream);
      const std::string where = golden.file + " " + kind;
      expect_close(where, y, golden.at("out.y." + kind));
      (y * golden.at("in.cotangent")).sum().backward();
      const std::string prefix = "grad." + kind + ".";
      if (golden.has(prefix + "in.x"))
        expect_close(where + " x", x.grad(), golden.at(prefix + "in.x"));
      const auto tensors = channel->named_tensors();
      for (const auto& [name, value] : golden.under(prefix + "param.ffn."))
        expect_close(where + " " + name, tensors.at(name).grad(), value);
    }
  }
}

}  // namespace
}  // namespace formwork

#include "methods/channel/channel.h"

#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "kernels/activation.h"
#include "support/golden.h"
#include "support/gradcheck.h"
#include "support/refusal.h"

namespace formwork {
namespace {

const std::vector<std::string> kPlain = {"gelu", "gelu_tanh", "relu", "relu2", "silu"};
const std::vector<std::string> kGated = {"swiglu", "geglu", "geglu_tanh",
                                         "reglu",  "glu",   "bilinear"};

std::shared_ptr<Channel> build(const std::string& kind, int64_t width, const Table& options) {
  Site site = plain_site(width);
  const auto channel = Choice<Channel>(kind).set(options).make(site);
  channel->to(at::kDouble);
  return channel;
}

Tensor run(Channel& channel, const Tensor& x) {
  Stream stream;
  return channel.forward(x, stream);
}

int64_t hidden_width(Channel& channel) {
  return channel.named_tensors().at("up.weight").size(0);
}

TEST(property, ffn_baselines_gradients) {
  const auto check_all = [](const std::string& kind, const Table& options) {
    const auto channel = build(kind, 4, options);
    NamedLeaves leaves;
    uint64_t seed = 20;
    for (const Parameter& parameter : channel->parameters()) {
      const c10::NoGradGuard no_grad;
      Tensor(parameter.tensor).copy_(numbers(parameter.tensor.sizes(), ++seed));
      leaves.emplace_back(parameter.name, parameter.tensor);
    }
    EXPECT_EQ(leaves.size(), kind == "mlp" ? 4u : 6u);
    Tensor x = random_leaf({2, 3, 4}, 1);
    leaves.emplace_back("x", x);
    expect_gradients(
        kind, [&] { return run(*channel, x); }, leaves);
  };
  for (const std::string& act : kPlain)
    check_all("mlp", {{"act", act}, {"hidden", int64_t{6}}, {"bias", true}});
  for (const std::string& gate : kGated)
    check_all("glu", {{"gate", gate}, {"hidden", int64_t{6}}, {"bias", true}});
}

TEST(property, ffn_baselines_functions) {
  Tensor v = at::linspace(-6, 6, 1001, at::kDouble).requires_grad_(true);
  const Tensor gap = activate(v, Activation::gelu) - activate(v, Activation::gelu_tanh);
  EXPECT_LT(gap.abs().max().item<double>(), 5e-4);
  EXPECT_GT(gap.abs().max().item<double>(), 1e-5);
  activate(v, Activation::relu2).sum().backward();
  expect_close("relu2", v.grad(), 2.0 * at::relu(v.detach()), 1e-14);
  expect_close("silu", activate(v, Activation::silu), v * at::sigmoid(v), 1e-14);
}

TEST(property, ffn_baselines_bilinear_is_homogeneous) {
  const auto channel = build("glu", 8, {{"gate", "bilinear"}});
  const Tensor x = numbers({2, 3, 8}, 2);
  expect_close("degree 2", run(*channel, x * 3.0), run(*channel, x) * 9.0, 1e-12);
}

TEST(property, ffn_baselines_closed_gate) {
  const Tensor x = numbers({2, 3, 8}, 3);
  for (const std::string& gate : kGated) {
    const auto channel = build("glu", 8, {{"gate", gate}});
    const auto tensors = channel->named_tensors();
    {
      const c10::NoGradGuard no_grad;
      Tensor(tensors.at("gate.weight")).zero_();
    }
    const Tensor linear =
        at::linear(at::linear(x, tensors.at("up.weight")), tensors.at("down.weight"));
    expect_close(gate, run(*channel, x), gate == "glu" ? linear * 0.5 : linear * 0.0, 1e-14);
  }
}

TEST(property, ffn_baselines_sizes) {
  EXPECT_EQ(hidden_width(*build("glu", 64, {})), 192);
  EXPECT_EQ(hidden_width(*build("glu", 512, {})), 1408);
  EXPECT_EQ(hidden_width(*build("glu", 192, {})), 512);
  EXPECT_EQ(hidden_width(*build("glu", 48, {{"multiple_of", int64_t{256}}})), 256);
  EXPECT_EQ(hidden_width(*build("glu", 48, {{"hidden", int64_t{5}}})), 5);
  EXPECT_EQ(hidden_width(*build("mlp", 12, {})), 48);
  EXPECT_EQ(hidden_width(*build("mlp", 12, {{"ratio", 2.6}})), 31);
  EXPECT_EQ(build("glu", 8, {})->named_tensors().size(), 3u);
  EXPECT_EQ(build("mlp", 8, {})->named_tensors().size(), 4u);
  for (const Parameter& parameter : build("glu", 8, {})->parameters())
    EXPECT_EQ(parameter.name, std::string(role_name(parameter.role)) + ".weight");
}

TEST(property, ffn_baselines_dropout) {
  for (const char* kind : {"mlp", "glu"}) {
    const auto channel = build(kind, 16, {{"dropout", 0.5}});
    const Tensor x = numbers({4, 8, 16}, 4);
    const double part = (run(*channel, x) == 0).to(at::kDouble).mean().item<double>();
    EXPECT_GT(part, 0.3) << kind;
    EXPECT_LT(part, 0.7) << kind;
    channel->eval();
    EXPECT_TRUE(at::equal(run(*channel, x), run(*channel, x))) << kind;
    EXPECT_TRUE((run(*channel, x) != 0).all().item<bool>()) << kind;
  }
}

TEST(unit, channel_options) {
  const auto says = [](const std::string& kind, const Table& options, const std::string& key) {
    test::expect_error([&] { build(kind, 4, options); }, Fault::request, {"channel." + key});
  };
  for (const char* kind : {"mlp", "glu"}) {
    says(kind, {{"hidden", int64_t{8}}, {"ratio", 2.0}}, "hidden");
    says(kind, {{"hidden", int64_t{0}}}, "hidden");
    says(kind, {{"dropout", 1.0}}, "dropout");
  }
  says("mlp", {{"ratio", 0.01}}, "ratio");
  says("mlp", {{"act", "swiglu"}}, "act");
  says("glu", {{"gate", "gelu"}}, "gate");
  EXPECT_FALSE(Choice<Channel>("none").traits().present);
  EXPECT_TRUE(Choice<Channel>("mlp").traits().present);
}

}  // namespace
}  // namespace formwork

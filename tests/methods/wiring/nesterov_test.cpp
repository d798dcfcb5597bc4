// Sublayers that push a velocity: the formulas of specification sympformer written down again.
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "methods/wiring/wiring.h"
#include "support/mixers.h"
#include "support/tiny_model.h"

namespace formwork::test {
namespace {

constexpr double kMu = 0.9, kBeta = 0.9;

Tensor normed(const Tensor& x) {
  return at::layer_norm(x, {x.size(2)});
}

/// Two sublayers of a layer.
struct Pair {
  std::shared_ptr<Wiring> mixer, channel;
  Pair(const std::string& kind, const Table& options, int64_t layer = 0) {
    const c10::NoGradGuard no_grad;
    Site site = plain_site(8);
    site.vocabulary = kVocabulary;
    site.length = 6;
    site.layer = layer;
    Choice<Wiring> choice(kind);
    choice.set(options);
    mixer = choice.make(site);
    site.mixer_wiring = mixer;
    channel = choice.make(site);
    for (const auto& one : {mixer, channel}) one->to(at::kDouble);
  }
};

Tensor attend_all(const Tensor& x) {
  return x.cumsum(1).tanh();
}
Tensor shrink(const Tensor& x) {
  return (0.7 * x).sin();
}

TEST(property, nesterov_formula) {
  const c10::NoGradGuard no_grad;
  const Pair layer("nesterov", {{"momentum_init", Value("zero")}});
  Stream stream;
  stream.x = random_tensor({2, 6, 8}, 1);
  Tensor x = stream.x.clone(), v = at::zeros_like(x);
  for (int i = 0; i < 2; ++i) {
    layer.mixer->forward(stream, attend_all);
    layer.channel->forward(stream, shrink);
    for (const auto& f : {attend_all, shrink}) {
      v = normed(kBeta * v + f(normed(x + kMu * v)));
      x = x + v;
    }
  }
  expect_near("x", stream.x, x, 1e-6);  // the scalars start in float32
}

TEST(property, nesterov_shares_the_velocitys_norm) {
  const auto names = [](const Wiring& wiring) {
    std::map<std::string, const void*> all;
    for (const Parameter& one : wiring.parameters())
      all[one.name] = one.tensor.unsafeGetTensorImpl();
    return all;
  };
  const Pair layer("nesterov", {});
  const auto mixer = names(*layer.mixer), channel = names(*layer.channel);
  EXPECT_EQ(mixer.at("norm_v.weight"), channel.at("norm_v.weight"));
  EXPECT_NE(mixer.at("norm_in.weight"), channel.at("norm_in.weight"));
  EXPECT_NE(mixer.at("mu.raw"), channel.at("mu.raw"));
  EXPECT_EQ(mixer.count("momentum.tokens"), 1u);
  EXPECT_EQ(channel.count("momentum.tokens"), 0u);
  EXPECT_EQ(names(*Pair("nesterov", {}, 1).mixer).count("momentum.tokens"), 0u);
}

TEST(property, nesterov_starts_with_the_tokens_velocity) {
  const c10::NoGradGuard no_grad;
  const Pair layer("nesterov", {});
  std::map<std::string, Tensor> parameters;
  for (const Parameter& one : layer.mixer->parameters()) parameters[one.name] = one.tensor;
  Stream stream;
  stream.x = random_tensor({2, 6, 8}, 1);
  stream.tokens = at::randint(kVocabulary, {2, 5}, generator_of(RandomStream(2)), at::kLong);
  stream.positions = at::arange(6);
  const Tensor x = stream.x;
  layer.mixer->forward(stream, shrink);
  Tensor v = at::embedding(parameters.at("momentum.tokens"), stream.tokens);
  // A class token stands before the others.
  v = at::constant_pad_nd(v, {0, 0, 1, 0}) + parameters.at("momentum.positions.weight");
  EXPECT_GT(v.abs().max().item<double>(), 0.01);
  v = normed(kBeta * v + shrink(normed(x + kMu * v)));
  expect_near("x", stream.x, x + v, 1e-6);
}

TEST(property, nesterov_scalars_learn_faster_and_do_not_decay) {
  for (const char* kind : {"nesterov", "sympformer"}) {
    const Pair layer(kind, {{"scalar_rate", Value(100.0)}});
    int scalars = 0;
    for (const auto& wiring : {layer.mixer, layer.channel})
      for (const Parameter& one : wiring->parameters()) {
        if (one.tensor.dim() == 0) ++scalars;
        EXPECT_EQ(one.rate, one.tensor.dim() == 0 ? 100.0 : 1.0) << one.name;
      }
    EXPECT_GE(scalars, 6);
  }
}

/// The channel's step after a mixer that moved x by 0.3 F and p by itself.
void expect_channel(
    const char* mode,
    const std::function<void(Tensor& x, Tensor& v, const Tensor& along, Tensor& p)>& formula) {
  const c10::NoGradGuard no_grad;
  const Pair layer(
      "sympformer",
      {{"integrator", Value("first_order")}, {"h", Value(0.3)}, {"mlp_mode", Value(mode)}});
  Stream stream;
  stream.x = random_tensor({2, 6, 8}, 1);
  Tensor x = stream.x.clone(), v = at::zeros_like(x), p;
  for (int i = 0; i < 2; ++i) {
    layer.mixer->forward(stream, attend_all);
    layer.channel->forward(stream, shrink);
    const Tensor moved = attend_all(normed(x));
    x = x + 0.3 * moved;
    formula(x, v, moved, p);
    expect_near(mode, stream.x, x, 1e-6);
  }
}

TEST(property, sympformer_channel_steps) {
  expect_channel("velocity", [](Tensor& x, Tensor& v, const Tensor&, Tensor&) {
    v = normed(kBeta * v + shrink(normed(x + kMu * v)));
    x = x + v;
  });
  expect_channel("attn_vel", [](Tensor& x, Tensor&, const Tensor& along, Tensor&) {
    x = x + shrink(normed(x + kMu * along));
  });
}

TEST(property, sympformer_channel_moves_by_the_momentum) {
  const c10::NoGradGuard no_grad;
  const Pair layer("sympformer", {{"integrator", Value("euler")}, {"mlp_mode", Value("p_vel")}});
  Stream stream;
  stream.x = random_tensor({2, 6, 8}, 1);
  stream.carried["momentum"] = random_tensor({2, 6, 8}, 2);
  const Tensor x = stream.x, p = stream.carried.at("momentum");
  layer.channel->forward(stream, shrink);
  const Tensor pushed = normed(kBeta * p + shrink(normed(x + kMu * p)));
  expect_near("p", stream.carried.at("momentum"), pushed, 1e-6);
  expect_near("x", stream.x, x + pushed, 1e-6);
}

TEST(property, momentum_tables_learn) {
  for (const char* kind : {"sympformer", "nesterov"}) {
    const TaskForm task = token_task("decoder");
    const ModelOptions options = tiny_options(task, [&](ModelOptions& o) {
      o.position.select("none", "position");
      o.every_layer.wiring = Choice<Wiring>(kind).set({{"momentum_init", Value("token_table")}});
      o.every_layer.channel_wiring = o.every_layer.wiring;
    });
    ASSERT_TRUE(valid(options, task));
    Model model(options, task, 3);
    run(model, tiny_tokens()).square().mean().backward();
    int64_t tables = 0;
    for (const Parameter& one : model.parameters()) {
      if (one.name.find("momentum.") == std::string::npos) continue;
      ++tables;
      EXPECT_GT(one.tensor.grad().abs().sum().item<double>(), 0.0) << kind << " " << one.name;
    }
    EXPECT_EQ(tables, 2) << kind;  // in the first layer only
  }
}

}  // namespace
}  // namespace formwork::test

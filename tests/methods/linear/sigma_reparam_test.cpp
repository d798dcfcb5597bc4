// Spectral reparametrisation against reference numbers and the properties of sigma_reparam.
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "methods/optimizer/optimizer.h"
#include "support/golden.h"
#include "support/gradcheck.h"
#include "support/refusal.h"
#include "support/tiny_model.h"
#include "training/precision.h"
#include "training/trainer.h"

namespace formwork::test {
namespace {

Tensor normal(at::IntArrayRef shape, uint64_t seed) {
  return normal_tensor(shape, 1.0, RandomStream(seed)).to(at::kDouble);
}

LinearSite site_of(int64_t out, int64_t in, bool bias = true, Role role = Role::up) {
  LinearSite site;
  site.in = in;
  site.out = out;
  site.bias = bias;
  site.role = role;
  site.init.deviation = 0.3;
  site.random = RandomStream(17);
  return site;
}

std::shared_ptr<Linear> make(LinearSite site, const Table& options = {},
                             at::ScalarType type = at::kDouble) {
  const auto linear = Choice<Linear>("sigma_reparam").set(options).make(site);
  linear->to(type);
  return linear;
}

Tensor tensor_of(Linear& linear, const std::string& name) {
  return linear.named_tensors().at(name);
}

void load(Linear& linear, const std::map<std::string, Tensor>& values) {
  const c10::NoGradGuard no_grad;
  for (auto& [name, tensor] : linear.named_tensors())
    if (values.count(name) > 0) Tensor(tensor).copy_(values.at(name));
}

void expect_gradients_of(Linear& linear, const GoldenCase& golden, const std::string& prefix) {
  for (const Parameter& parameter : linear.parameters()) {
    const std::string name = prefix + parameter.name;
    if (golden.has(name)) expect_close(name, parameter.tensor.grad(), golden.at(name));
    EXPECT_TRUE(golden.has(name)) << name;
  }
}

/// Training step k of a golden case, plain SGD included.
void check_step(const GoldenCase& golden, Linear& linear, int64_t k, double rate) {
  const std::string step = join_text("step", k, ".");
  SCOPED_TRACE(step);
  for (const Parameter& parameter : linear.parameters()) {
    if (golden.has("param." + step + parameter.name))
      expect_close(parameter.name, parameter.tensor, golden.at("param." + step + parameter.name));
  }
  const Tensor x = golden.at("in." + step + "x").clone().requires_grad_(true);
  linear.before_step({k, 0.0});
  const Tensor y = linear.forward(x);
  expect_close("y", y, golden.at("out." + step + "y"));
  for (const auto& [name, value] : golden.under("buffer." + step))
    expect_close(name, linear.named_tensors().at(name), value);
  (y * golden.at("in." + step + "cotangent")).sum().backward();
  expect_close("x", x.grad(), golden.at("grad.in." + step + "x"));
  expect_gradients_of(linear, golden, "grad.param." + step);
  const c10::NoGradGuard no_grad;
  for (const Parameter& parameter : linear.parameters()) {
    parameter.tensor.sub_(parameter.tensor.grad(), rate);
    parameter.tensor.mutable_grad().reset();
  }
}

void check_training(const GoldenCase& golden) {
  const Tensor& weight = golden.at("param.weight");
  const auto linear = make(site_of(weight.size(0), weight.size(1), golden.has("param.bias")),
                           {{"n_iter", Value(golden.option<int64_t>("n_iter", 1))}});
  load(*linear, golden.under("param."));
  load(*linear, golden.under("buffer.before."));
  const double rate = golden.option<double>("sgd_lr", 0.03);
  for (int64_t k = 0; golden.has(join_text("in.step", k, ".x")); ++k)
    check_step(golden, *linear, k, rate);
  for (const auto& [name, value] : golden.under("param.final."))
    expect_close("final " + name, linear->named_tensors().at(name), value);
  if (!golden.has("in.eval.x")) return;
  linear->eval();
  expect_close("eval", linear->forward(golden.at("in.eval.x")), golden.at("out.eval.y"));
}

/// A convolution is the same map on unfolded patches.
void check_convolution(const GoldenCase& golden) {
  const Tensor& weight = golden.at("param.weight");
  const auto linear = make(site_of(weight.size(0), weight.size(1), golden.has("param.bias")));
  load(*linear, golden.under("param."));
  load(*linear, golden.under("buffer.before."));
  linear->before_step({});
  const Tensor x = golden.at("in.x").clone().requires_grad_(true);
  const int64_t kernel = golden.option<int64_t>("kernel", 1);
  const int64_t stride = golden.option<int64_t>("stride", kernel);
  const Tensor patches =
      at::im2col(x, {kernel, kernel}, {1, 1}, {0, 0}, {stride, stride}).transpose(1, 2);
  const Tensor& expected = golden.at("out.y");
  const Tensor y = linear->forward(patches).transpose(1, 2).view(expected.sizes());
  expect_close("y", y, expected);
  for (const auto& [name, value] : golden.under("buffer.after."))
    expect_close(name, linear->named_tensors().at(name), value);
  (y * golden.at("in.cotangent")).sum().backward();
  expect_close("x", x.grad(), golden.at("grad.in.x"));
  expect_gradients_of(*linear, golden, "grad.param.");
}

TEST(golden, sigma_reparam) {
  for (const GoldenCase& golden : golden_cases("sigma_reparam")) {
    SCOPED_TRACE(golden.file);
    if (golden.has("in.step0.x")) check_training(golden);
    if (golden.has("in.x") && golden.has("param.weight")) check_convolution(golden);
  }
}

double norm_of(const Tensor& matrix) {
  return at::linalg_svdvals(matrix.detach())[0].item<double>();
}

TEST(property, sigma_reparam_norm_is_gamma) {
  for (const bool exact_start : {true, false}) {
    const auto linear = make(site_of(7, 12), {{"svd_init", Value(exact_start)}});
    {
      const c10::NoGradGuard no_grad;
      tensor_of(*linear, "gamma").fill_(-1.7);
    }
    for (int i = 0; i < 400; ++i) linear->before_step({});
    EXPECT_NEAR(norm_of(linear->weight()), 1.7, 1e-8);
    const Tensor before = linear->weight().detach().clone();
    const c10::NoGradGuard no_grad;
    tensor_of(*linear, "weight").mul_(3.0);
    expect_close("without a refresh", linear->weight(), before);
    linear->before_step({});
    expect_close("another scale", linear->weight(), before);
  }
}

TEST(property, sigma_reparam_gradient_is_across_the_weight) {
  const auto linear = make(site_of(7, 12));
  for (int i = 0; i < 400; ++i) linear->before_step({});
  (linear->forward(normal({5, 12}, 1)) * normal({5, 7}, 2)).sum().backward();
  const Tensor weight = tensor_of(*linear, "weight");
  EXPECT_NEAR((weight.grad() * weight).sum().item<double>(), 0.0, 1e-8);
  EXPECT_GT(weight.grad().abs().max().item<double>(), 1e-3);
}

TEST(property, sigma_reparam_gradients_match_differences) {
  for (const bool trains : {true, false}) {
    const auto linear = make(site_of(6, 5));
    for (int i = 0; i < 400; ++i) linear->before_step({});
    linear->train(trains);
    const Tensor x = random_leaf({4, 5}, 3);
    NamedLeaves leaves{{"x", x}};
    for (const Parameter& parameter : linear->parameters())
      leaves.emplace_back(parameter.name, parameter.tensor);
    // The check writes into the weights' memory unseen: have them looked at again.
    const auto pass = [&] {
      linear->before_step({});
      return linear->forward(x);
    };
    expect_gradients("sigma_reparam", pass, leaves);
  }
}

TEST(property, sigma_reparam_starts_as_the_plain_map) {
  const Tensor x = normal({4, 9}, 4).to(at::kFloat);
  LinearSite site = site_of(20, 9);
  const auto plain = Choice<Linear>("dense").make(site);
  const auto linear = make(site_of(20, 9), {}, at::kFloat);
  for (const bool trains : {true, false}) {
    linear->train(trains);
    linear->before_step({});
    const Tensor difference = (linear->forward(x) - plain->forward(x)).abs().max();
    EXPECT_LE(difference.item<double>(), 2e-6 * plain->forward(x).abs().max().item<double>());
  }
  const auto one = make(site_of(20, 9), {{"gamma_init", Value("one")}});
  EXPECT_NEAR(norm_of(one->weight()), 1.0, 1e-6);
}

TEST(property, sigma_reparam_estimate_grows_to_the_norm) {
  const auto linear = make(site_of(15, 11), {{"svd_init", Value(false)}});
  const double norm = norm_of(tensor_of(*linear, "weight"));
  double last = 0.0;
  for (int i = 0; i < 60; ++i) {
    linear->before_step({});
    const double sigma = tensor_of(*linear, "spectral_norm").item<double>();
    EXPECT_GE(sigma, last * (1 - 1e-14));
    EXPECT_LE(sigma, norm * (1 + 1e-14));
    const Tensor v = tensor_of(*linear, "v");
    const Tensor back = at::mv(tensor_of(*linear, "weight").detach().t(), v);
    EXPECT_NEAR(sigma, back.norm().item<double>(), 1e-12);
    last = sigma;
  }
  const auto thrice =
      make(site_of(15, 11), {{"svd_init", Value(false)}, {"n_iter", Value(int64_t{3})}});
  const auto once = make(site_of(15, 11), {{"svd_init", Value(false)}});
  for (int i = 0; i < 2; ++i) once->before_step({});
  EXPECT_GT(tensor_of(*thrice, "spectral_norm").item<double>(),
            tensor_of(*make(site_of(15, 11), {{"svd_init", Value(false)}}), "spectral_norm")
                .item<double>());
}

TEST(property, sigma_reparam_evaluation_leaves_the_state) {
  const c10::NoGradGuard no_grad;
  const auto linear = make(site_of(6, 10), {{"svd_init", Value(false)}});
  const Tensor u = tensor_of(*linear, "u").clone();
  linear->eval();
  const Tensor x = normal({3, 10}, 5);
  const Tensor y = linear->forward(x);
  EXPECT_TRUE(at::equal(y, linear->forward(x)));
  EXPECT_TRUE(at::equal(u, tensor_of(*linear, "u")));
  expect_close("the fold", at::linear(x, linear->weight(), linear->bias()), y);
  // It is one iteration ahead of what training would use.
  linear->train();
  EXPECT_FALSE(at::allclose(linear->forward(x), y));
  tensor_of(*linear, "weight").mul_(2.0).select(0, 0).fill_(0.5);
  linear->eval();
  expect_close("after a change", at::linear(x, linear->weight(), linear->bias()),
               linear->forward(x));
  EXPECT_FALSE(at::allclose(linear->forward(x), y)) << "evaluation kept an old scale";
}

TEST(property, sigma_reparam_reaches_what_it_is_asked_to) {
  const auto scaled = [](const Table& options, Role role) {
    return make(site_of(4, 4, true, role), options)->named_tensors().count("gamma") > 0;
  };
  const Table attention{{"apply_to", Value("attention")}};
  EXPECT_TRUE(scaled(attention, Role::query) && scaled(attention, Role::output));
  EXPECT_FALSE(scaled(attention, Role::up) || scaled(attention, Role::head));
  const Table listed{{"apply_to", Value("roles")}, {"roles", Value(List{Value("down")})}};
  EXPECT_TRUE(scaled(listed, Role::down) && !scaled(listed, Role::up));
  const auto watched = make(site_of(4, 4), {{"stats_only", Value(true)}});
  LinearSite site = site_of(4, 4);
  const auto plain = Choice<Linear>("dense").make(site);
  plain->to(at::kDouble);
  watched->before_step({});
  const Tensor x = normal({2, 4}, 6);
  EXPECT_TRUE(at::equal(watched->forward(x), plain->forward(x)));
  EXPECT_NEAR(tensor_of(*watched, "spectral_norm").item<double>(), norm_of(plain->weight()), 1e-6);
  EXPECT_EQ(watched->named_tensors().count("gamma"), 0);
  LinearSite patches = site_of(4, 4, true, Role::embedding);
  EXPECT_NEAR(norm_of(make(patches, {{"conv_gain", Value(0.125)}})->weight()),
              0.125 * norm_of(make(patches)->weight()), 1e-7);
  EXPECT_NEAR(norm_of(make(site_of(4, 4), {{"init_gain", Value(2.0)}})->weight()),
              2 * norm_of(make(site_of(4, 4))->weight()), 1e-6);
}

TEST(property, sigma_reparam_refusals) {
  LinearSite zero = site_of(4, 4);
  zero.init.kind = "zeros";
  expect_error([&] { make(zero); }, Fault::request, {"model.linear.kind", "start at 0"});
  expect_error(
      [] {
        make(site_of(4, 4), {{"n_iter", Value(int64_t{0})}});
      },
      Fault::request, {"n_iter"});
  expect_error(
      [] {
        make(site_of(4, 4), {{"roles", Value(List{Value("up")})}});
      },
      Fault::request, {"roles", "apply_to"});
  const Table wrong{{"apply_to", Value("roles")}, {"roles", Value(List{Value("upp")})}};
  expect_error([&] { make(site_of(4, 4), wrong); }, Fault::request, {"model.linear.roles", "upp"});
}

/// Two layers without norms whose linear maps, untied or tied to the embedding, are reparametrised.
std::shared_ptr<Model> model_of(bool tied) {
  const TaskForm task = token_task("decoder");
  const ModelOptions options = tiny_options(task, [&](ModelOptions& o) {
    o.linear.select("sigma_reparam", "linear");
    o.every_layer.norm.select("none", "norm");
    o.every_layer.wiring.select("none", "wiring");
    o.every_layer.channel_wiring.select("none", "wiring");
    o.head.tied = tied;
  });
  EXPECT_TRUE(valid(options, task));
  return std::make_shared<Model>(options, task, 5);
}

double train_step(Model& model, Optimizer& optimizer, const std::string& precision) {
  model.visit([](const std::string&, Module& module) { module.before_step({}); });
  Tensor loss;
  {
    const PrecisionGuard guard(precision);
    const Tensor ids = tiny_tokens();
    loss = at::cross_entropy_loss(run(model, ids).to(at::kFloat).flatten(0, 1), ids.flatten());
  }
  loss.backward();
  optimizer.step(1.0);
  optimizer.zero_grad();
  return loss.item<double>();
}

std::shared_ptr<Optimizer> optimizer_of(Model& model) {
  OptimizerSite site;
  site.parameters = model.parameters();
  return Choice<Optimizer>("adamw").make(site);
}

TEST(property, sigma_reparam_head) {
  const auto untied = model_of(false)->named_tensors();
  EXPECT_EQ(untied.count("head.gamma"), 1) << "the head is reparametrised too";
  const auto tied = model_of(true)->named_tensors();
  EXPECT_EQ(tied.count("head.gamma"), 0) << "a tied head is the embedding's table";
  EXPECT_EQ(tied.count("layers.0.q_proj.gamma"), 1);
}

TEST(property, sigma_reparam_trains_and_resumes) {
  for (const bool tied : {false, true}) {
    for (const char* precision : {"float32", "bfloat16"}) {
      SCOPED_TRACE(precision);
      const auto whole = model_of(tied), begun = model_of(tied), resumed = model_of(tied);
      const auto whole_steps = optimizer_of(*whole), begun_steps = optimizer_of(*begun);
      const auto resumed_steps = optimizer_of(*resumed);
      double first = 0.0, last = 0.0;
      for (int i = 0; i < 6; ++i) {
        last = train_step(*whole, *whole_steps, precision);
        if (i == 0) first = last;
        train_step(*begun, *begun_steps, precision);
      }
      EXPECT_LT(last, first);
      load_model(*resumed, begun->named_tensors(), "test");
      resumed_steps->load_state(begun_steps->state());
      for (int i = 0; i < 6; ++i)
        EXPECT_EQ(train_step(*whole, *whole_steps, precision),
                  train_step(*resumed, *resumed_steps, precision));
    }
  }
}

}  // namespace
}  // namespace formwork::test

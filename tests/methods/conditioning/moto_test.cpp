// MoTo and TokenProp in the project's own design: specification moto_tokenprop.
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "methods/conditioning/conditioning.h"
#include "support/golden.h"
#include "support/gradcheck.h"
#include "support/refusal.h"
#include "support/tiny_model.h"

namespace formwork::test {
namespace {

Tensor normal(at::IntArrayRef shape, uint64_t seed) {
  return normal_tensor(shape, 1.0, RandomStream(seed)).to(at::kDouble);
}

std::shared_ptr<Conditioning> make(int64_t width, int64_t patch_width, const Table& options = {}) {
  ConditioningSite site;
  static_cast<Site&>(site) = plain_site(width);
  site.patch_width = patch_width;
  const auto moto = Choice<Conditioning>("moto").set(options).make(site);
  moto->to(at::kDouble);
  return moto;
}

struct Result {
  Tensor y;
  std::vector<Tensor> losses;
};
Result pass(Conditioning& moto, const Tensor& x, const Tensor& patches, const Tensor& valid = {}) {
  Stream stream;
  stream.valid = valid;
  if (patches.defined()) stream.carried["patches"] = patches;
  Tensor y = moto.forward(x, stream);
  EXPECT_EQ(stream.carried.count("patches"), 0) << "the patches must not outlive their use";
  return {y, std::move(stream.losses)};
}

void randomise(Module& module) {
  const c10::NoGradGuard no_grad;
  uint64_t seed = 40;
  for (const Parameter& parameter : module.parameters())
    parameter.tensor.copy_(normal(parameter.tensor.sizes(), ++seed));
}

TEST(golden, moto_tokenprop) {
  for (const GoldenCase& golden : golden_cases("moto_tokenprop")) {
    SCOPED_TRACE(golden.file);
    const Tensor x = golden.at("in.x").clone().requires_grad_(true);
    const bool decodes = golden.has("in.patches");
    Table options{{"eps", Value(golden.option<double>("eps", 1e-5))},
                  {"tokenprop", Value(decodes ? golden.option<double>("lambda", 0.1) : 0.0)},
                  {"target", Value(golden.option<std::string>("target", "normalised"))},
                  {"residual", Value(golden.option<bool>("residual", false))},
                  {"modulate", Value(golden.has("param.reduce.weight"))}};
    if (golden.has("param.reduce.weight"))
      options.emplace_back("rank", Value(golden.at("param.reduce.weight").size(0)));
    const auto moto = make(x.size(2), decodes ? golden.at("in.patches").size(2) : 0, options);
    const auto own = moto->named_tensors();
    {
      const c10::NoGradGuard no_grad;
      for (const auto& [name, value] : golden.under("param.")) Tensor(own.at(name)).copy_(value);
    }
    const Tensor valid = golden.has("in.valid_mask") ? golden.at("in.valid_mask") > 0.5 : Tensor();
    const Result result = pass(*moto, x, decodes ? golden.at("in.patches") : Tensor(), valid);
    expect_close("y", result.y, golden.at("out.y"));
    Tensor sum = (result.y * golden.at("in.cotangent")).sum();
    if (golden.has("out.tokenprop_loss")) {
      ASSERT_EQ(result.losses.size(), 1);
      expect_close("loss", result.losses[0].view({1}), golden.at("out.tokenprop_loss"));
      sum = sum + result.losses[0];
    }
    sum.backward();
    expect_close("x", x.grad(), golden.at("grad.in.x"));
    for (const Parameter& parameter : moto->parameters())
      expect_close(parameter.name, parameter.tensor.grad(),
                   golden.at("grad.param." + parameter.name));
  }
}

TEST(property, moto_tokenprop_starts_as_standardisation) {
  const double eps = 1e-5;
  const auto moto = make(8, 0, {{"tokenprop", Value(0.0)}, {"eps", Value(eps)}});
  const Tensor x = normal({3, 7, 8}, 1) * 2 + 1;
  const Tensor y = pass(*moto, x, {}).y;
  EXPECT_LE(y.mean(1).abs().max().item<double>(), 1e-14);
  const Tensor variance = x.var({1}, 0);
  expect_close("variance", y.var({1}, 0), variance / (variance + eps));
  // Exact but for eps: th (x a + c) = th(x) of eps / a².
  const auto finer = make(8, 0, {{"tokenprop", Value(0.0)}, {"eps", Value(eps / 9)}});
  expect_close("scale and shift", pass(*moto, x * 3 - 5, {}).y, pass(*finer, x, {}).y);
  const Tensor one = pass(*moto, x.narrow(1, 0, 1), {}).y;
  EXPECT_EQ(one.abs().max().item<double>(), 0.0) << "one token has no variance";
  const auto same = make(8, 0, {{"tokenprop", Value(0.0)}, {"residual", Value(true)}});
  EXPECT_TRUE(at::equal(pass(*same, x, {}).y, x));
}

TEST(property, moto_tokenprop_is_equivariant) {
  const auto moto = make(8, 0, {{"tokenprop", Value(0.0)}});
  randomise(*moto);
  const Tensor x = normal({2, 6, 8}, 2);
  const Tensor order = at::tensor({4, 0, 5, 2, 1, 3}, at::kLong);
  expect_close("permuted", pass(*moto, x.index_select(1, order), {}).y,
               pass(*moto, x, {}).y.index_select(1, order));
}

TEST(property, moto_tokenprop_leaves_out_padding) {
  for (const bool residual : {false, true}) {
    const auto moto = make(8, 5, {{"residual", Value(residual)}});
    randomise(*moto);
    const Tensor x = normal({2, 6, 8}, 3), patches = normal({2, 6, 5}, 4);
    const Tensor valid = at::arange(6).unsqueeze(0) < at::tensor({6, 4}).unsqueeze(1);
    const Result all = pass(*moto, x, patches, valid);
    const Tensor dirty = x.masked_fill(valid.logical_not().unsqueeze(-1), 1e6);
    const Result other =
        pass(*moto, dirty, patches + valid.logical_not().unsqueeze(-1) * 9.0, valid);
    EXPECT_TRUE(at::equal(all.y, other.y));
    EXPECT_TRUE(at::equal(all.losses[0], other.losses[0]));
    EXPECT_EQ(all.y[1].narrow(0, 4, 2).abs().max().item<double>(), 0.0);
    const Result alone =
        pass(*moto, x[1].narrow(0, 0, 4).unsqueeze(0), patches[1].narrow(0, 0, 4).unsqueeze(0));
    expect_close("alone", all.y[1].narrow(0, 0, 4), alone.y[0]);
    const Result first = pass(*moto, x[0].unsqueeze(0), patches[0].unsqueeze(0));
    expect_close("loss", all.losses[0] * 10, first.losses[0] * 6 + alone.losses[0] * 4);
  }
}

TEST(property, moto_tokenprop_loss) {
  const Table raw{{"target", Value("raw")}, {"modulate", Value(false)}, {"tokenprop", Value(2.0)}};
  const auto moto = make(8, 5, raw);
  randomise(*moto);
  const auto p = moto->named_tensors();
  const Tensor x = normal({2, 6, 8}, 5);
  const Tensor exact = at::linear(x, p.at("decoder.weight"), p.at("decoder.bias")).detach();
  EXPECT_EQ(pass(*moto, x, exact).losses[0].item<double>(), 0.0);
  EXPECT_NEAR(pass(*moto, x, exact + 0.5).losses[0].item<double>(), 0.5, 1e-12);
  moto->eval();
  EXPECT_TRUE(pass(*moto, x, exact).losses.empty()) << "the decoder is for training only";
  const auto off = make(8, 5, {{"tokenprop", Value(0.0)}});
  EXPECT_TRUE(pass(*off, x, exact).losses.empty());
  EXPECT_EQ(off->named_tensors().count("decoder.weight"), 0);
}

TEST(property, moto_tokenprop_gradients_match_differences) {
  const auto moto = make(6, 4, {{"residual", Value(true)}});
  randomise(*moto);
  const Tensor x = random_leaf({2, 5, 6}, 6), patches = normal({2, 5, 4}, 7);
  NamedLeaves leaves{{"x", x}};
  for (const Parameter& parameter : moto->parameters())
    leaves.emplace_back(parameter.name, parameter.tensor);
  const auto all = [&] {
    const Result result = pass(*moto, x, patches);
    return at::cat({result.y.flatten(), result.losses[0].view({1})});
  };
  expect_gradients("moto", all, leaves);
}

ModelOptions image_options(const Table& moto = {}) {
  return tiny_options(image_task(), [&](ModelOptions& o) {
    o.stem.select("patch", "stem");
    o.conditioning.select("moto", "conditioning");
    o.conditioning.set(moto);
  });
}

TEST(property, moto_tokenprop_in_a_model) {
  Model model(image_options(), image_task(), 3);
  ModelInput input;
  input.input = tiny_images();
  const ModelOutput with = model.forward(input);
  EXPECT_EQ(with.losses.size(), 1);
  model.eval();
  EXPECT_TRUE(model.forward(input).losses.empty());
  EXPECT_EQ(model.named_tensors().at("conditioning.decoder.weight").size(0), 16);
  // The class token is no token of the image: another start of it leaves the loss as it is.
  model.train();
  {
    const c10::NoGradGuard no_grad;
    model.named_tensors().at("cls").fill_(3.0);
  }
  EXPECT_TRUE(at::equal(model.forward(input).losses[0], with.losses[0]));
}

TEST(property, moto_tokenprop_refusals) {
  const TaskForm text = token_task("encoder");
  const ModelOptions words =
      tiny_options(text, [](ModelOptions& o) { o.conditioning.select("moto", "conditioning"); });
  expect_error([&] { validate(words, text); }, Fault::request,
               {"model.conditioning.kind", "moto", "needs continuous tokens", "patch"});
  const auto with_stem = [](InputForm::Kind kind, const char* stem, double weight) {
    TaskForm task = image_task();
    task.input.kind = kind;
    task.input.length = 32;
    const ModelOptions options = tiny_options(task, [&](ModelOptions& o) {
      o.stem.select(stem, "stem");
      o.conditioning.select("moto", "conditioning");
      o.conditioning.set({{"tokenprop", Value(weight)}});
    });
    validate(options, task);
  };
  expect_error([&] { with_stem(InputForm::Kind::series, "series", 0.1); }, Fault::request,
               {"model.conditioning.kind", "needs the patches", "patch"});
  with_stem(InputForm::Kind::series, "series", 0.0);
  expect_error([] { make(8, 4, {{"tokenprop", Value(-0.1)}}); }, Fault::request, {"tokenprop"});
  expect_error([] { make(8, 4, {{"target", Value("edges")}}); }, Fault::request, {"target"});
  expect_error([] { make(8, 0); }, Fault::request, {"tokenprop", "patch"});
}

}  // namespace
}  // namespace formwork::test

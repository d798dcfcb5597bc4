// Sliced recursion against reference numbers and the properties of specification sret.
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <regex>

#include "model/stack.h"
#include "support/golden.h"
#include "support/mixers.h"
#include "support/refusal.h"
#include "support/tiny_model.h"

namespace formwork::test {
namespace {

struct StageOptions {
  int64_t width = 16, heads = 2, depth = 4, hidden = 32;
  Table plan, mixer;
  std::vector<std::vector<int64_t>> orders;  // a block; none: as `mixer` says
  std::string wiring = "scaled";
  std::string norm = "layer_norm";
};

/// Blocks by the depth plan on ready vectors, float64.
class Stage final : public Module {
 public:
  explicit Stage(const StageOptions& options, uint64_t seed = 3) {
    Site site = plain_site(options.width, options.heads, seed);
    site.depth = options.depth;
    site.make_norm = [kind = options.norm](int64_t width) {
      NormSite norm;
      norm.width = width;
      Choice<Norm> choice(kind);
      choice.set({{"eps", Value(1e-6)}});
      return choice.make(norm);
    };
    depth_ = add_module("depth", Choice<Depth>("sret").set(options.plan).make(site));
    plan_ = depth_->plan(options.depth);
    for (int64_t i = 0; i < plan_.blocks; ++i) {
      site.layer = i;
      site.name = join_text("block", i);
      site.random = RandomStream(seed).child(site.name);
      blocks_.push_back(
          add_module(site.name, std::make_shared<Block>(layer(options, i), site, false)));
    }
    to(at::kDouble);
  }

  /// x [B,N,D] → [B,N,D].
  Tensor forward(const Tensor& x, std::vector<int64_t>* recursions = nullptr) {
    Stream stream;
    stream.x = x;
    const auto apply = [&](int64_t i) {
      depth_->apply(stream, i, [&] {
        if (recursions) recursions->push_back(stream.recursion);
        blocks_[static_cast<size_t>(plan_.order[static_cast<size_t>(i)])]->forward(
            stream, nullptr, join_text("layers.", i));
      });
    };
    depth_->run(stream, apply, static_cast<int64_t>(plan_.order.size()));
    return stream.x;
  }
  Block& block(size_t i) { return *blocks_[i]; }

 private:
  static LayerOptions layer(const StageOptions& options, int64_t block) {
    LayerOptions chosen;
    chosen.mixer = Choice<Mixer>("sliced");
    chosen.mixer.set(options.mixer);
    if (!options.orders.empty()) {
      List order;
      for (const int64_t place : options.orders[static_cast<size_t>(block)])
        order.emplace_back(place);
      chosen.mixer.set({{"permutation", Value("given")}, {"order", Value(order)}});
    }
    chosen.channel.set({{"hidden", Value(options.hidden)}});
    chosen.norm = Choice<Norm>(options.norm);
    chosen.norm.set({{"eps", Value(1e-6)}});
    chosen.wiring = chosen.channel_wiring = Choice<Wiring>(options.wiring);
    return chosen;
  }

  std::shared_ptr<Depth> depth_;
  DepthPlan plan_;
  std::vector<std::shared_ptr<Block>> blocks_;
};

/// What a parameter of a stage is called in the files.
std::string name_in_file(std::string name) {
  const std::pair<const char*, const char*> rules[] = {
      {"^depth\\.", ""},
      {"^(block\\d+)\\.attn\\.norm_in", "$1.norm1"},
      {"^(block\\d+)\\.ffn\\.norm_in", "$1.norm2"},
      {"^(block\\d+)\\.attn\\.coef", "$1.coef"},
      {"^(block\\d+)\\.ffn\\.coef1", "$1.coef3"},
      {"^(block\\d+)\\.ffn\\.coef2", "$1.coef4"},
      {"^(block\\d+)\\.([qkv]|out)_proj", "$1.attn.$2_proj"},
      {"^(nll\\d+)\\.norm_in", "$1.norm1"},
  };
  for (const auto& [from, to] : rules) name = std::regex_replace(name, std::regex(from), to);
  return name;
}

StageOptions golden_stage(const GoldenCase& golden) {
  const auto number = [&](const char* key) { return golden.config.at(key).get<int64_t>(); };
  StageOptions options;
  options.width = number("D");
  options.heads = number("H");
  options.depth = number("depth");
  options.hidden = static_cast<int64_t>(golden.config.at("mlp_ratio").get<double>() *
                                        static_cast<double>(options.width));
  const int64_t recursions = number("recursions");
  options.plan = {{"shared_blocks", number("shared_blocks")},
                  {"recursions", recursions},
                  {"nll_ratio", golden.config.at("nll_ratio").get<double>()}};
  options.mixer = {{"groups1", number("groups1")}, {"groups2", number("groups2")}};
  if (number("groups2") == 1) return options;
  int64_t next = 0;
  for (int64_t block = 0; block < number("shared_blocks"); ++block) {
    std::vector<int64_t>& order = options.orders.emplace_back();
    for (int64_t again = 1; again < recursions; ++again) {
      const Tensor given = golden.at(join_text("in.permutation.", next++));
      order.insert(order.end(), given.data_ptr<int64_t>(),
                   given.data_ptr<int64_t>() + given.numel());
    }
  }
  return options;
}

/// [B,D,h,w] → [B,N,D], row-major.
Tensor as_tokens(const Tensor& image) {
  return image.flatten(2).transpose(1, 2).contiguous();
}

void check_stage(const GoldenCase& golden) {
  SCOPED_TRACE(golden.file);
  Stage stage(golden_stage(golden));
  const auto values = golden.under("param.");
  size_t used = 0;
  {
    const c10::NoGradGuard no_grad;
    for (const Parameter& parameter : stage.parameters()) {
      const auto found = values.find(name_in_file(parameter.name));
      ASSERT_TRUE(found != values.end()) << parameter.name;
      Tensor(parameter.tensor).copy_(found->second);
      ++used;
    }
  }
  EXPECT_EQ(used, values.size()) << "the file has parameters that the model lacks";
  const Tensor x = as_tokens(golden.at("in.x")).requires_grad_(true);
  const Tensor y = stage.forward(x);
  expect_close("y", y, as_tokens(golden.at("out.y")));
  (y * as_tokens(golden.at("in.cotangent"))).sum().backward();
  expect_close("grad.in.x", x.grad(), as_tokens(golden.at("grad.in.x")));
  for (const Parameter& parameter : stage.parameters()) {
    const std::string name = name_in_file(parameter.name);
    if (name.ends_with("k_proj.bias"))  // softmax does not see it: 0 but for rounding
      EXPECT_LE(parameter.tensor.grad().abs().max().item<double>(), 1e-12) << name;
    else
      expect_close(name, parameter.tensor.grad(), golden.at("grad.param." + name));
  }
}

TEST(golden, sret) {
  for (const GoldenCase& golden : golden_cases("sret")) check_stage(golden);
}

TEST(property, sret_tells_mixers_what_is_a_recursion) {
  StageOptions options;
  options.depth = 6;
  std::vector<int64_t> seen;
  const Tensor x = random_tensor({1, 4, 16}, 1);
  options.plan = {{"shared_blocks", int64_t{2}}, {"recursions", int64_t{3}}};
  Stage(options).forward(x, &seen);
  EXPECT_EQ(seen, (std::vector<int64_t>{0, 1, 2, 0, 1, 2}));
  seen.clear();
  options.plan.emplace_back("as_released", true);
  Stage(options).forward(x, &seen);
  EXPECT_EQ(seen, (std::vector<int64_t>{0, 1, 0, 1, 0, 1}));
}

TEST(property, sret_gradient_of_a_shared_block_is_the_sum_of_its_copies) {
  StageOptions options;
  options.depth = 3;
  options.plan = {{"recursions", int64_t{3}}, {"nll", false}};
  Stage shared(options);
  options.plan = {{"recursions", int64_t{1}}, {"nll", false}};
  Stage untied(options);
  std::map<std::string, Tensor> block;
  for (const Parameter& p : shared.block(0).parameters()) block.emplace(p.name, p.tensor);
  {
    const c10::NoGradGuard no_grad;
    for (size_t i = 0; i < 3; ++i)
      for (const Parameter& p : untied.block(i).parameters())
        Tensor(p.tensor).copy_(block.at(p.name));
  }
  const Tensor x = random_tensor({2, 6, 16}, 2), cotangent = random_tensor({2, 6, 16}, 3);
  (shared.forward(x) * cotangent).sum().backward();
  (untied.forward(x) * cotangent).sum().backward();
  std::map<std::string, Tensor> sums;
  for (size_t i = 0; i < 3; ++i)
    for (const Parameter& p : untied.block(i).parameters())
      sums[p.name] = i == 0 ? p.tensor.grad() : sums[p.name] + p.tensor.grad();
  for (const auto& [name, tensor] : block) expect_close(name, tensor.grad(), sums.at(name));
}

int64_t linear_numbers(int64_t in, int64_t out) {
  return in * out + out;
}

/// The three stages of a released backbone built, the rest around them counted.
int64_t backbone_numbers(int64_t head_width, const std::vector<int64_t>& heads, double mlp_ratio,
                         double nll_ratio) {
  const int64_t depths[] = {4, 10, 6}, blocks[] = {2, 5, 3};
  int64_t sum = 0;
  for (size_t s = 0; s < 3; ++s) {
    StageOptions options;
    options.heads = heads[s];
    options.width = head_width * heads[s];
    options.depth = depths[s];
    options.hidden = static_cast<int64_t>(mlp_ratio * static_cast<double>(options.width));
    options.plan = {{"shared_blocks", blocks[s]}, {"nll_ratio", nll_ratio}};
    const Stage stage(options);
    const int64_t d = options.width, h = options.hidden;
    const auto own = static_cast<int64_t>(nll_ratio * static_cast<double>(d));
    const int64_t block = 4 * d * d + 4 * d + 2 * d * h + h + d + 4 * d + 4;
    const int64_t nll = 2 * d * own + own + d + 2 * d + 2;
    EXPECT_EQ(stage.parameter_count(), blocks[s] * block + depths[s] * nll) << "stage " << s;
    sum += stage.parameter_count();
    // Downsampling: a convolution of 3 x 3, each output from one channel.
    if (s > 0) sum += 9 * d + d;
  }
  const int64_t first = head_width * heads[0], last = head_width * heads[2];
  // Three convolutions of 3 x 3 with bias, each with the scale and shift of a batch norm.
  for (const auto& [in, out] :
       {std::pair(int64_t{3}, first / 2), {first / 2, first}, {first, first}})
    sum += 9 * in * out + out + 2 * out;
  return sum + first * 28 * 28 + 2 * last + linear_numbers(last, 1000);
}

TEST(property, sret_parameter_counts) {
  EXPECT_EQ(backbone_numbers(32, {2, 4, 8}, 3.6, 1.0), 4755979);
  EXPECT_EQ(backbone_numbers(32, {2, 4, 8}, 4.0, 1.0), 4988024);
  EXPECT_EQ(backbone_numbers(42, {3, 6, 12}, 3.0, 2.0), 20899692);
}

void fill(Stage& stage, const std::string& pattern, double value) {
  const c10::NoGradGuard no_grad;
  for (const Parameter& parameter : stage.parameters())
    if (std::regex_search(parameter.name, std::regex(pattern)))
      Tensor(parameter.tensor).fill_(value);
}

TEST(property, sret_without_branches_is_the_identity) {
  StageOptions options;
  options.mixer = {{"groups1", int64_t{2}}, {"groups2", int64_t{4}}};
  Stage stage(options);
  const Tensor x = random_tensor({2, 8, 16}, 4);
  EXPECT_FALSE(at::equal(stage.forward(x), x));
  fill(stage, "coef2$", 0.0);
  EXPECT_TRUE(at::equal(stage.forward(x), x));
}

TEST(property, sret_inference_is_the_same_twice) {
  StageOptions options;
  options.mixer = {{"groups1", int64_t{4}}, {"groups2", int64_t{2}}};
  Stage stage(options);
  const Tensor x = random_tensor({2, 16, 16}, 5);
  EXPECT_FALSE(at::equal(stage.forward(x), stage.forward(x))) << "training draws permutations";
  stage.eval();
  EXPECT_TRUE(at::equal(stage.forward(x), stage.forward(x)));
}

TEST(property, sret_without_sharing_is_a_pre_norm_model) {
  StageOptions options;
  options.depth = 2;
  options.plan = {{"recursions", int64_t{1}}, {"nll", false}};
  Stage scaled(options);
  options.wiring = "pre";
  Stage plain(options);
  std::map<std::string, Tensor> values;
  for (const Parameter& p : plain.parameters()) values.emplace(p.name, p.tensor);
  {
    const c10::NoGradGuard no_grad;
    for (const Parameter& p : scaled.parameters())
      if (const auto found = values.find(p.name); found != values.end())
        Tensor(p.tensor).copy_(found->second);
  }
  const Tensor x = random_tensor({2, 6, 16}, 6);
  EXPECT_TRUE(at::equal(scaled.forward(x), plain.forward(x)));
}

TEST(property, sret_projections_without_coefficients) {
  StageOptions options;
  options.plan = {{"residual_coefficients", "none"}};
  Stage without(options);
  for (const Parameter& p : without.parameters())
    EXPECT_FALSE(std::regex_search(p.name, std::regex("nll\\d+\\.coef"))) << p.name;
  options.plan = {{"coef_init", 0.5}};
  Stage half(options);
  for (const Parameter& p : half.parameters())
    if (std::regex_search(p.name, std::regex("nll\\d+\\.coef"))) {
      EXPECT_EQ(p.tensor.item<double>(), 0.5);
    }
}

TEST(unit, sret_depths_that_do_not_fit) {
  StageOptions options;
  options.plan = {{"recursions", int64_t{3}}};
  expect_error([&] { Stage stage(options); }, Fault::request,
               {"depth_plan.recursions", "found 3", "model.depth = 4"});
  options.plan = {{"shared_blocks", int64_t{3}}};
  expect_error([&] { Stage stage(options); }, Fault::request,
               {"depth_plan.shared_blocks", "found 3", "valid: 2", "model.depth = 6"});
  options.plan = {{"nll_ratio", 0.01}};
  expect_error([&] { Stage stage(options); }, Fault::request, {"nll_ratio", "hidden channel"});
}

TEST(property, scaled_wiring_drops_whole_branches) {
  Site site = plain_site(4);
  site.depth = 4;
  site.layer = 2;
  const auto wiring = Choice<Wiring>("scaled")
                          .set({{"drop_path", Value(0.8)}, {"coef_init", Value(2.0)}})
                          .make(site);
  Stream stream;
  stream.x = at::zeros({400, 3, 4});
  wiring->forward(stream, [](const Tensor& x) { return at::ones_like(x); });
  // Rate 0.8 · 2 / 4: kept items get 2 · 1 / (1 - 0.4).
  const Tensor items = stream.x.flatten(1);
  EXPECT_TRUE(at::equal(items, items.select(1, 0).unsqueeze(1).expand_as(items)));
  const Tensor first = items.select(1, 0), kept = first.ne(0);
  EXPECT_TRUE(at::allclose(first.masked_select(kept), at::full({1}, 2.0 / 0.6)));
  EXPECT_NEAR(kept.to(at::kDouble).mean().item<double>(), 0.6, 0.15);
  wiring->eval();
  stream.x = at::zeros({2, 3, 4});
  wiring->forward(stream, [](const Tensor& x) { return at::ones_like(x); });
  EXPECT_TRUE(at::equal(stream.x, at::full({2, 3, 4}, 2.0)));
}

}  // namespace
}  // namespace formwork::test

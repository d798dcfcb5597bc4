#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "methods/mixer/observed.h"
#include "methods/position/position.h"
#include "support/mixers.h"

namespace formwork::test {
namespace {

/// The definition, token by token and head by head: no fused operator, no mask tensor.
Tensor by_definition(Mixer& mixer, const MixerCase& what, int64_t kv_heads, double scale,
                     const Tensor& x, const Tensor& valid) {
  const auto p = mixer.named_tensors();
  const auto map = [&](const std::string& name, const Tensor& input, int64_t heads) {
    const auto bias = p.find(name + ".bias");
    return at::linear(input, p.at(name + ".weight"), bias == p.end() ? Tensor() : bias->second)
        .unflatten(-1, {heads, -1});
  };
  PositionSite where{.width = what.width,
                     .heads = what.heads,
                     .head_width = what.width / what.heads,
                     .length = 64,
                     .causal = what.causal,
                     .random = RandomStream(5)};
  const auto position = Choice<Position>(what.position).make(where);
  position->to(at::kDouble);
  const int64_t n = x.size(1);
  const auto turned = [&](const Tensor& t) {
    return position->rotate(t.transpose(1, 2), at::arange(n)).transpose(1, 2);
  };
  const Tensor q = turned(map("q_proj", x, what.heads));
  const Tensor k = turned(map("k_proj", x, kv_heads)), v = map("v_proj", x, kv_heads);
  const Tensor bias = position->bias(at::arange(n), at::arange(n), at::kDouble);
  Tensor y = at::zeros_like(q);
  for (int64_t b = 0; b < x.size(0); ++b)
    for (int64_t h = 0; h < what.heads; ++h)
      for (int64_t i = 0; i < n; ++i) {
        const int64_t from = h * kv_heads / what.heads;
        Tensor sum = at::zeros_like(y[b][i][h]);
        double norm = 0.0;
        for (int64_t j = 0; j < (what.causal ? i + 1 : n); ++j) {
          if (valid.defined() && !valid[b][j].item<bool>()) continue;
          double score = scale * q[b][i][h].dot(k[b][j][from]).item<double>();
          if (bias.defined()) score += bias[h][i][j].item<double>();
          norm += std::exp(score);
          sum = sum + std::exp(score) * v[b][j][from];
        }
        if (norm > 0.0) y[b][i][h].copy_(sum / norm);
      }
  const auto out = p.find("out_proj.bias");
  return at::linear(y.flatten(2), p.at("out_proj.weight"), out == p.end() ? Tensor() : out->second);
}

TEST(property, softmax_by_definition) {
  const c10::NoGradGuard no_grad;
  struct Variant {
    int64_t kv_heads;
    Table options;
  };
  const std::vector<Variant> variants{
      {4, {}},
      {2, {{"kv_heads", Value(int64_t{2})}, {"bias", Value(true)}}},
      {1, {{"kv_heads", Value(int64_t{1})}, {"scale", Value(0.3)}}}};
  for (const Variant& variant : variants) {
    for (const bool causal : {false, true}) {
      for (const std::string position : {"none", "rotary", "alibi", "t5_relative"}) {
        MixerCase what{"softmax", variant.options, causal, 16, 4, position};
        const auto mixer = what.make();
        const double scale = variant.kv_heads == 1 ? 0.3 : 0.5;
        const Tensor x = random_tensor({2, 7, 16}, 1);
        expect_near("no padding", run(*mixer, x),
                    by_definition(*mixer, what, variant.kv_heads, scale, x, {}));
        // Holes: keys before the first valid one leave rows that see nothing.
        Tensor valid = lengths_mask({7, 3}, 7);
        valid[0][0].fill_(false);
        valid[0][4].fill_(false);
        expect_near("padding", run(*mixer, x, valid),
                    by_definition(*mixer, what, variant.kv_heads, scale, x, valid));
      }
    }
  }
}

TEST(property, softmax_right_padding) {
  const c10::NoGradGuard no_grad;
  const MixerCase what{"softmax", {}};
  const auto mixer = what.make();
  const Tensor x = random_tensor({2, 9, 12}, 2), valid = lengths_mask({9, 4}, 9);
  Tensor dirty = x.clone();
  dirty[1].narrow(0, 4, 5).fill_(1e3);
  const Tensor y = run(*mixer, dirty, valid);
  expect_near("short row", y[1].narrow(0, 0, 4), run(*mixer, x.narrow(0, 1, 1).narrow(1, 0, 4))[0]);
  expect_near("long row", y[0], run(*mixer, x.narrow(0, 0, 1))[0]);
}

TEST(property, softmax_rows_without_keys) {
  for (const bool causal : {false, true}) {
    for (const char* position : {"none", "alibi", "t5_relative"}) {
      MixerCase what{"softmax", {}, causal};
      what.position = position;
      const auto mixer = what.make();
      const Tensor x = random_tensor({2, 5, 12}, 3).requires_grad_(true);
      Tensor valid = at::ones({2, 5}, at::kBool);
      valid[1].fill_(false);
      valid[0][0].fill_(false);
      const Tensor y = run(*mixer, x, valid);
      EXPECT_EQ(y[1].abs().max().item<double>(), 0.0);
      y.sum().backward();
      EXPECT_TRUE(x.grad().isfinite().all().item<bool>());
      for (const Parameter& parameter : mixer->parameters())
        EXPECT_TRUE(parameter.tensor.grad().isfinite().all().item<bool>()) << parameter.name;
    }
  }
}

TEST(property, softmax_qk_norm) {
  const c10::NoGradGuard no_grad;
  const MixerCase what{"softmax", {{"qk_norm", Value(true)}}, false};
  const auto mixer = what.make();
  const auto p = mixer->named_tensors();
  const Tensor x = random_tensor({1, 6, 12}, 4), y = run(*mixer, x);
  p.at("q_proj.weight").mul_(1000.0);
  expect_near("the scale of the queries is lost", run(*mixer, x), y, 1e-5);
}

TEST(property, softmax_dropout) {
  Site site = plain_site(12, 2);
  site.causal = true;
  site.attention_dropout = 0.5;
  const auto mixer = Choice<Mixer>("softmax").make(site);
  const c10::NoGradGuard no_grad;
  const Tensor x = random_tensor({1, 8, 12}, 5, at::kFloat);
  EXPECT_FALSE(run(*mixer, x).equal(run(*mixer, x)));
  mixer->eval();
  EXPECT_TRUE(run(*mixer, x).equal(run(*mixer, x)));
}

TEST(property, softmax_observed) {
  const c10::NoGradGuard no_grad;
  const auto mixer = MixerCase{"softmax", {{"kv_heads", Value(int64_t{1})}}}.make();
  const Tensor x = random_tensor({2, 5, 12}, 6);
  Recorder recorder;
  Stream stream;
  stream.place = "layers.0.attn";
  stream.observer = &recorder;
  expect_same_bits("looking changes nothing", mixer->forward(x, stream), run(*mixer, x));
  const Tensor weights = recorder.seen.at("layers.0.attn.attention");
  EXPECT_EQ(weights.sizes(), at::IntArrayRef({2, 2, 5, 5}));
  expect_near("rows sum to 1", weights.sum(-1), at::ones({2, 2, 5}, at::kDouble));
  expect_near("causal", weights.triu(1), at::zeros_like(weights), 0.0);
  for (const char* point : {"query", "key", "value", "output"})
    EXPECT_TRUE(recorder.seen.count(std::string("layers.0.attn.") + point)) << point;
}

TEST(property, softmax_refusals) {
  MixerCase what{"softmax", {{"kv_heads", Value(int64_t{3})}}, true, 16, 4};
  expect_refused([&] { what.make(); }, "kv_heads");
  what.options = {{"qkv_dim", Value(int64_t{10})}};
  expect_refused([&] { what.make(); }, "qkv_dim");
  what.options = {};
  expect_refused([&] { what.make()->make_state(1, 0, at::kFloat); }, "at least 1");
}

TEST(property, softmax_names_and_roles) {
  const auto mixer = MixerCase{"softmax", {{"qkv_dim", Value(int64_t{24})}}}.make();
  std::map<std::string, Role> found;
  for (const Parameter& parameter : mixer->parameters()) found[parameter.name] = parameter.role;
  const std::map<std::string, Role> wanted{{"q_proj.weight", Role::query},
                                           {"k_proj.weight", Role::key},
                                           {"v_proj.weight", Role::value},
                                           {"out_proj.weight", Role::output}};
  EXPECT_EQ(found, wanted);
  EXPECT_EQ(mixer->named_tensors().at("q_proj.weight").sizes(), at::IntArrayRef({24, 12}));
}

}  // namespace
}  // namespace formwork::test

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <torch/csrc/autograd/autograd.h>

#include "methods/position/position.h"
#include "support/mixers.h"

namespace formwork::test {
namespace {

TEST(golden, linear_transformer) {
  for (const GoldenCase& golden : golden_cases("linear_transformer")) {
    MixerCase what = projected_case(golden, "linear");
    std::string map = golden.option<std::string>("feature_map", "elu1");
    if (map.starts_with("relu")) map = "relu";
    what.options.emplace_back("feature_map", Value(map));
    what.options.emplace_back("eps", Value(golden.option<double>("eps", 1e-6)));
    for (const int64_t chunk : {1, 7, 64}) {
      MixerCase chunked = what;
      chunked.options.emplace_back("chunk", Value(chunk));
      check_golden(golden, *chunked.make());
    }
  }
}

MixerCase linear_case(bool causal, const std::string& map = "elu1", int64_t chunk = 64) {
  return {"linear",
          {{"feature_map", Value(map)}, {"chunk", Value(chunk)}, {"eps", Value(1e-4)}},
          causal};
}

Tensor features(const std::string& map, const Tensor& u) {
  if (map == "softmax") return u.exp() / u.exp().sum(-1, true);
  if (map == "relu") return at::where(u > 0, u, 0.0) + 1e-4;
  return at::where(u > 0, u + 1, u.clamp_max(0).exp());
}

/// Explicit weights phi(q)phi(k)ᵀ [B,H,N,N]; rotary positions act above the line only.
Tensor explicit_form(Mixer& mixer, const MixerCase& what, const std::string& map, const Tensor& x,
                     const Tensor& valid) {
  const auto p = mixer.named_tensors();
  const auto heads = [&](const char* name) {
    return at::linear(x, p.at(name)).unflatten(2, {what.heads, -1}).transpose(1, 2);
  };
  const Tensor q = features(map, heads("q_proj.weight"));
  const Tensor k = features(map, heads("k_proj.weight"));
  const int64_t n = x.size(1);
  PositionSite where{.width = what.width,
                     .heads = what.heads,
                     .head_width = what.width / what.heads,
                     .random = RandomStream(5)};
  const auto position = Choice<Position>(what.position).make(where);
  const auto pairs = [&](const Tensor& a, const Tensor& b) {
    Tensor weights = at::matmul(a, b.transpose(2, 3));
    if (what.causal) weights = weights.tril();
    return valid.defined() ? weights * valid.unsqueeze(1).unsqueeze(2) : weights;
  };
  const Tensor above =
      pairs(position->rotate(q, at::arange(n)), position->rotate(k, at::arange(n)));
  const Tensor y = at::matmul(above, heads("v_proj.weight")) / (pairs(q, k).sum(-1, true) + 1e-4);
  return at::linear(y.transpose(1, 2).flatten(2), p.at("out_proj.weight"));
}

TEST(property, linear_transformer_equals_explicit_weights) {
  for (const std::string map : {"elu1", "relu", "softmax"}) {
    for (const std::string position : {"none", "rotary"}) {
      for (const bool causal : {false, true}) {
        for (const int64_t chunk : {1, 4, 13, 64}) {
          MixerCase what = linear_case(causal, map, chunk);
          what.position = position;
          const auto mixer = what.make();
          const Tensor x = random_tensor({2, 13, 12}, 1).requires_grad_(true);
          for (const Tensor& valid : {Tensor(), random_tensor({2, 13}, 2) > -0.5}) {
            const Tensor y = run(*mixer, x, valid);
            const Tensor wanted = explicit_form(*mixer, what, map, x, valid);
            expect_near("outputs", y, wanted);
            std::vector<Tensor> inputs{x};
            for (const Parameter& parameter : mixer->parameters())
              inputs.push_back(parameter.tensor);
            const Tensor g = random_tensor(y.sizes(), 3);
            const auto ours = torch::autograd::grad({(y * g).sum()}, inputs);
            const auto theirs = torch::autograd::grad({(wanted * g).sum()}, inputs);
            for (size_t i = 0; i < ours.size(); ++i)
              expect_near("gradients", ours[i], theirs[i], 1e-11);
          }
        }
      }
    }
  }
}

TEST(property, linear_transformer_values) {
  const c10::NoGradGuard no_grad;
  for (const bool causal : {false, true}) {
    const auto mixer = linear_case(causal, "elu1", 5).make();
    const auto p = mixer->named_tensors();
    const Tensor x = random_tensor({2, 18, 12}, 4), y = run(*mixer, x);
    p.at("v_proj.weight").mul_(2.0);
    expect_near("doubled values", run(*mixer, x), 2.0 * y);
    // Values that are the same for every token come out, less the share of eps.
    const Tensor same = x.clone();
    same.select(2, 0).fill_(1.0);
    p.at("v_proj.weight").zero_();
    p.at("v_proj.weight").select(1, 0).fill_(1.0);
    const Tensor z = run(*mixer, same);
    const Tensor wanted = p.at("out_proj.weight").sum(1);
    EXPECT_LT((z - wanted).abs().max().item<double>(), 1e-3);
  }
}

TEST(property, linear_transformer_is_a_set_function) {
  const c10::NoGradGuard no_grad;
  const auto mixer = linear_case(false).make();
  const Tensor x = random_tensor({1, 9, 12}, 5);
  const Tensor order = at::tensor({3, 1, 8, 0, 2, 7, 5, 6, 4}, at::kLong);
  expect_near("permuted", run(*mixer, x.index_select(1, order)),
              run(*mixer, x).index_select(1, order));
  const Tensor longer = at::cat({x, random_tensor({1, 4, 12}, 6)}, 1);
  expect_near("padded suffix", run(*mixer, longer, lengths_mask({9}, 13)).narrow(1, 0, 9),
              run(*mixer, x));
}

TEST(property, linear_transformer_state) {
  const c10::NoGradGuard no_grad;
  const Tensor x = random_tensor({2, 45, 12}, 7);
  const auto one = linear_case(true, "elu1", 64).make();
  State whole = one->make_state(2, 64, at::kDouble);
  feed(*one, x, whole);
  for (const int64_t chunk : {1, 8, 45}) {
    const auto mixer = linear_case(true, "elu1", chunk).make();
    State state = mixer->make_state(2, 64, at::kDouble);
    feed(*mixer, x, state);
    expect_near("sum", state.tensors.at("sum"), whole.tensors.at("sum"));
    expect_near("norm", state.tensors.at("norm"), whole.tensors.at("norm"));
  }
}

TEST(property, linear_transformer_half_precision) {
  const c10::NoGradGuard no_grad;
  const auto mixer = linear_case(true).make();
  mixer->to(at::kBFloat16);
  const Tensor x = random_tensor({2, 30, 12}, 8, at::kFloat).to(at::kBFloat16);
  State state = mixer->make_state(2, 64, at::kBFloat16);
  EXPECT_EQ(state.tensors.at("sum").scalar_type(), at::kFloat);
  state.to(at::kBFloat16, at::kCPU);
  EXPECT_EQ(state.tensors.at("sum").scalar_type(), at::kFloat);
  const Tensor y = feed(*mixer, x, state);
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  const auto exact = linear_case(true).make();
  const auto rounded = mixer->named_tensors();
  for (const auto& [name, tensor] : exact->named_tensors()) tensor.copy_(rounded.at(name));
  expect_near("bfloat16", y.to(at::kDouble), run(*exact, x.to(at::kDouble)), 0.03);
}

TEST(property, linear_transformer_refusals) {
  MixerCase what{"linear", {{"eps", Value(-1e-6)}}};
  expect_refused([&] { what.make(); }, "eps");
  what.options = {{"chunk", Value(int64_t{0})}};
  expect_refused([&] { what.make(); }, "chunk");
  what.options = {{"feature_map", Value("cosine")}};
  expect_refused([&] { what.make(); }, "feature_map");
  EXPECT_FALSE(Choice<Mixer>("linear").traits().bias);
  EXPECT_TRUE(Choice<Mixer>("linear").traits().rotary);
}

TEST(property, linear_transformer_memory_is_linear) {
  // The sums after every token would take N·K·V numbers: 1 GiB.
  const int64_t n = 32768, width = 64;
  MixerCase what = linear_case(true);
  what.width = width;
  what.heads = 1;
  const auto mixer = what.make();
  rusage before{}, after{};
  getrusage(RUSAGE_SELF, &before);
  run(*mixer, random_tensor({1, n, width}, 1).requires_grad_(true)).sum().backward();
  getrusage(RUSAGE_SELF, &after);
  EXPECT_LT((after.ru_maxrss - before.ru_maxrss) / 1024, 700);
}

}  // namespace
}  // namespace formwork::test

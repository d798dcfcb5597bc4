#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include "methods/position/position.h"
#include "support/mixers.h"

namespace formwork::test {
namespace {

/// The released mode has another name in recipes.
MixerCase local_case(const GoldenCase& golden) {
  MixerCase result = projected_case(golden, "local");
  const std::string mode = golden.option<std::string>("mode", "block");
  if (mode == "lra_compat")
    result.options.emplace_back("as_released", Value(true));
  else
    result.options.emplace_back("mode", Value(mode));
  for (const char* key : {"block_size", "look_back", "look_forward", "window", "window_right"})
    if (golden.config.contains(key) && !golden.config.at(key).is_null())
      result.options.emplace_back(key, Value(golden.config.at(key).get<int64_t>()));
  return result;
}

TEST(golden, local_attention) {
  for (const GoldenCase& golden : golden_cases("local_attention"))
    check_golden(golden, *local_case(golden).make());
}

struct Shape {
  std::string mode;
  int64_t size, left, right;  // block_size, look_back, look_forward, or -, window, window_right
  bool causal;
  MixerCase mixer(const std::string& position = "none") const {
    MixerCase result{"local", {{"mode", Value(mode)}, {"bias", Value(true)}}, causal};
    result.position = position;
    const bool sliding = mode == "sliding";
    if (!sliding) result.options.emplace_back("block_size", Value(size));
    result.options.emplace_back(sliding ? "window" : "look_back", Value(left));
    result.options.emplace_back(sliding ? "window_right" : "look_forward", Value(right));
    return result;
  }
  /// The allowed pairs [N,N], straight from the definition.
  Tensor allowed(int64_t n) const {
    const Tensor j = at::arange(n), i = j.unsqueeze(1);
    Tensor open;
    if (mode == "sliding") {
      open = (j >= i - (causal ? left - 1 : left)).logical_and(j <= i + right);
    } else {
      const Tensor block = j.floor_divide(size), own = i.floor_divide(size);
      open = (block >= own - left).logical_and(block <= own + right);
    }
    return causal ? open.logical_and(j <= i) : open;
  }
};

const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all{
      {"block", 4, 0, 0, false},   {"block", 4, 1, 1, false},   {"block", 3, 2, 0, false},
      {"block", 4, 0, 1, false},   {"block", 64, 1, 1, false},  {"block", 1, 0, 0, false},
      {"block", 4, 0, 0, true},    {"block", 5, 1, 0, true},    {"block", 4, 9, 0, true},
      {"sliding", 0, 3, 2, false}, {"sliding", 0, 1, 0, false}, {"sliding", 0, 64, 64, false},
      {"sliding", 0, 4, 0, true},  {"sliding", 0, 1, 0, true},  {"sliding", 0, 64, 0, true}};
  return all;
}

/// Dense attention over the N×N mask, from the mixer's own parameters.
Tensor dense(Mixer& mixer, const MixerCase& what, const Tensor& x, const Tensor& allowed,
             const Tensor& bias) {
  const auto p = mixer.named_tensors();
  const auto heads = [&](const char* name) {
    const std::string map = name;
    return at::linear(x, p.at(map + ".weight"), p.at(map + ".bias"))
        .unflatten(2, {what.heads, -1})
        .transpose(1, 2);
  };
  const Tensor q = heads("q_proj"), k = heads("k_proj"), v = heads("v_proj");
  Tensor scores = at::matmul(q, k.transpose(2, 3)) / std::sqrt(static_cast<double>(q.size(3)));
  if (bias.defined()) scores = scores + bias;
  // Weights as a quotient of sums, so that rows without a key are 0.
  const Tensor weights = scores.exp().masked_fill(allowed.logical_not(), 0);
  const Tensor y = at::matmul(weights, v) / weights.sum(-1, true).clamp_min(1e-300);
  return at::linear(y.transpose(1, 2).flatten(2), p.at("out_proj.weight"), p.at("out_proj.bias"));
}

TEST(property, local_attention_is_masked_dense) {
  const c10::NoGradGuard no_grad;
  for (const Shape& shape : shapes()) {
    for (const std::string position : {"none", "alibi", "t5_relative"}) {
      for (const int64_t n : {1, 4, 13, 40}) {
        const MixerCase what = shape.mixer(position);
        const auto mixer = what.make();
        const Tensor x = random_tensor({2, n, what.width}, 1);
        PositionSite where{.width = 12,
                           .heads = 2,
                           .head_width = 6,
                           .length = 64,
                           .causal = shape.causal,
                           .random = RandomStream(5)};
        const auto biases = Choice<Position>(position).make(where);
        biases->to(at::kDouble);
        const Tensor bias = biases->bias(at::arange(n), at::arange(n), at::kDouble);
        const Tensor open = shape.allowed(n);
        expect_near("no padding", run(*mixer, x), dense(*mixer, what, x, open, bias));
        const Tensor valid =
            at::cat({lengths_mask({(n + 1) / 2}, n), random_tensor({1, n}, 9) > -0.3});
        const Tensor seen = open.logical_and(valid.unsqueeze(1).unsqueeze(2));
        const Tensor wanted = dense(*mixer, what, x, seen, bias);
        expect_near("padding", run(*mixer, x, valid), hide_invalid(wanted, valid));
      }
    }
  }
}

TEST(property, local_attention_uneven_positions) {
  // Positions with a jump leave the shortcut for biases that depend on the distance only.
  const c10::NoGradGuard no_grad;
  const Shape shape{"sliding", 0, 3, 2, false};
  const MixerCase what = shape.mixer("alibi");
  const auto mixer = what.make();
  const Tensor x = random_tensor({2, 20, 12}, 1);
  Stream stream;
  stream.positions = at::cat({at::arange(9), at::arange(30, 41)});
  PositionSite where{.width = 12, .heads = 2, .head_width = 6, .random = RandomStream(5)};
  const Tensor bias =
      Choice<Position>("alibi").make(where)->bias(stream.positions, stream.positions, at::kDouble);
  expect_near("jump", mixer->forward(x, stream), dense(*mixer, what, x, shape.allowed(20), bias));
}

TEST(property, local_attention_changes_stay_inside) {
  const c10::NoGradGuard no_grad;
  for (const Shape& shape : shapes()) {
    const int64_t n = 14;
    const auto mixer = shape.mixer().make();
    const Tensor x = random_tensor({1, n, 12}, 2), y = run(*mixer, x);
    for (int64_t j = 0; j < n; ++j) {
      Tensor changed = x.clone();
      changed.select(1, j).add_(0.5);
      const Tensor outside = shape.allowed(n).select(1, j).logical_not();
      expect_same_bits("outside the set", run(*mixer, changed)[0].index({outside}),
                       y[0].index({outside}));
    }
  }
}

TEST(property, local_attention_block_is_a_set) {
  const c10::NoGradGuard no_grad;
  const auto mixer = Shape{"block", 5, 0, 0, false}.mixer().make();
  const Tensor x = random_tensor({1, 15, 12}, 3);
  const Tensor order = at::tensor({0, 1, 2, 3, 4, 8, 5, 9, 7, 6, 10, 11, 12, 13, 14}, at::kLong);
  expect_near("permuted", run(*mixer, x.index_select(1, order)),
              run(*mixer, x).index_select(1, order), 1e-14);
}

TEST(property, local_attention_as_released_is_dilated) {
  const c10::NoGradGuard no_grad;
  const int64_t n = 23, w = 5, count = (n + w - n % w) / w;
  MixerCase released{"local", {{"block_size", Value(w)}, {"as_released", Value(true)}}, false};
  MixerCase block{"local", {{"block_size", Value(w)}}, false};
  const Tensor x = random_tensor({2, n, 12}, 4);
  const Tensor padded = at::constant_pad_nd(x, {0, 0, 0, w * count - n});
  const Tensor t = at::arange(w * count);
  const Tensor to = t.remainder(count) * w + t.floor_divide(count);
  const Tensor y = run(*block.make(), padded.index_select(1, at::argsort(to)));
  const Tensor all = at::ones({2, n}, at::kBool);
  const auto mixer = released.make();
  expect_near("no mask", run(*mixer, x), y.index_select(1, to).narrow(1, 0, n));
  expect_near("all valid", run(*mixer, x, all), run(*mixer, x), 1e-15);
  // A whole block is added where the blocks fit already.
  EXPECT_EQ(run(*mixer, random_tensor({1, 20, 12}, 5)).size(1), 20);
}

TEST(property, local_attention_refusals) {
  const auto refused = [](Table options, bool causal, const char* key) {
    MixerCase what{"local", std::move(options), causal};
    expect_refused([&] { what.make(); }, key);
  };
  refused({{"block_size", Value(int64_t{0})}}, false, "block_size");
  refused({{"window", Value(int64_t{0})}}, false, "window");
  refused({{"look_back", Value(int64_t{-1})}}, false, "look_back");
  refused({{"look_forward", Value(int64_t{1})}}, true, "look_forward");
  refused({{"mode", Value("sliding")}, {"window_right", Value(int64_t{1})}}, true, "window_right");
  refused({{"as_released", Value(true)}}, true, "as_released");
  refused({{"as_released", Value(true)}, {"mode", Value("sliding")}}, false, "as_released");
  refused({{"mode", Value("strided")}}, false, "mode");
  refused({{"qkv_dim", Value(int64_t{7})}}, false, "qkv_dim");
  const auto causal = [](Table options) {
    return Choice<Mixer>("local").set(options).traits().causal;
  };
  EXPECT_TRUE(causal({}));
  EXPECT_FALSE(causal({{"look_forward", Value(int64_t{1})}}));
  EXPECT_FALSE(causal({{"as_released", Value(true)}}));
}

int64_t peak_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

TEST(property, local_attention_memory_is_linear) {
  // An N×N mask of bytes alone would take 1 GiB.
  const int64_t n = 32768;
  for (const Shape& shape : {Shape{"sliding", 0, 32, 0, true}, Shape{"block", 32, 1, 1, false}}) {
    const auto mixer = shape.mixer().make();
    const int64_t before = peak_bytes();
    const Tensor x = random_tensor({1, n, 12}, 1).requires_grad_(true);
    run(*mixer, x).sum().backward();
    EXPECT_LT(peak_bytes() - before, int64_t{512} << 20);
  }
}

}  // namespace
}  // namespace formwork::test

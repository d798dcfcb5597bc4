#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "methods/mixer/observed.h"
#include "methods/mixer/random_features.h"
#include "methods/mixer/toeplitz_products.h"
#include "methods/position/t5_relative.h"
#include "support/mixers.h"

namespace formwork::test {
namespace {

void fill(Mixer& mixer, const std::string& name, const Tensor& values) {
  const c10::NoGradGuard no_grad;
  mixer.named_tensors().at(name).copy_(values);
}

/// A mixer whose relative positions are not all alike.
std::shared_ptr<Mixer> shaken(const MixerCase& what) {
  const auto mixer = what.make();
  for (const Parameter& parameter : mixer->parameters())
    if (parameter.role == Role::position)
      fill(*mixer, parameter.name, random_tensor(parameter.tensor.sizes(), 77));
  return mixer;
}

MixerCase rpe_case(Table options, bool causal = true) {
  if (Value(options).find("max_distance") == nullptr)
    options.emplace_back("max_distance", Value(int64_t{9}));
  return {"kernel_rpe", std::move(options), causal};
}

MixerCase golden_case(const GoldenCase& golden, const std::string& algorithm) {
  MixerCase what;
  what.kind = "kernel_rpe";
  what.width = golden.at("in.x").size(2);
  what.heads = golden.option<int64_t>("H", 1);
  what.causal = golden.option("causal", false);
  const Tensor q = golden.at("param.q_proj.weight"), k = golden.at("param.k_proj.weight");
  const int64_t head_width = q.size(0) / what.heads;
  const bool table = golden.has("param.rel_bias");
  what.options = {{"feature_map", Value(golden.option<std::string>("feature_map", "prf"))},
                  {"normalize_qk", Value(golden.option("normalize_qk", true))},
                  {"eps", Value(golden.option("eps", 1e-12))},
                  {"projection_bias", Value(golden.has("param.q_proj.bias"))},
                  {"qkv_dim", Value(q.size(0))},
                  {"kv_heads", Value(k.size(0) / head_width)},
                  {"bias", Value(table ? "table" : "none")},
                  {"algorithm", Value(algorithm)}};
  if (table)
    what.options.emplace_back("max_distance", Value((golden.at("param.rel_bias").size(1) + 1) / 2));
  if (golden.has("buffer.features.weight"))
    what.options.emplace_back("features", Value(golden.at("buffer.features.weight").size(0)));
  return what;
}

TEST(golden, kernel_rpe_fft) {
  for (GoldenCase golden : golden_cases("kernel_rpe_fft")) {
    if (golden.has("in.key_mask")) golden.tensors["in.pad_mask"] = golden.at("in.key_mask");
    // Ours is indexed by key minus query.
    if (golden.option<std::string>("rel_bias_index", "j-i").starts_with("i-j"))
      for (const char* name : {"param.rel_bias", "grad.param.rel_bias"})
        if (golden.has(name)) golden.tensors[name] = golden.at(name).flip(1);
    for (const char* algorithm : {"direct", "fft"}) {
      const auto mixer = golden_case(golden, algorithm).make();
      if (golden.has("buffer.features.weight"))
        fill(*mixer, "features.weight", golden.at("buffer.features.weight"));
      check_golden(golden, *mixer);
    }
  }
}

// ---- the products

/// [H,N,N] from [H,2N-1], entry by entry.
Tensor matrix_of(const Tensor& factors, bool causal) {
  const int64_t n = (factors.size(1) + 1) / 2;
  std::vector<Tensor> rows;
  for (int64_t i = 0; i < n; ++i) rows.push_back(factors.narrow(1, n - 1 - i, n));
  const Tensor all = at::stack(rows, 1);
  return causal ? all.tril() : all;
}

TEST(property, kernel_rpe_fft_products_agree) {
  for (const bool causal : {false, true}) {
    for (const int64_t n : {1, 2, 3, 16, 17, 33, 150, 260}) {
      std::vector<Tensor> inputs{random_tensor({2, 3, n, 5}, 1), random_tensor({2, 3, n, 5}, 2),
                                 random_tensor({2, 3, n, 4}, 3),
                                 random_tensor({3, 2 * n - 1}, 4).exp()};
      for (Tensor& input : inputs) input.requires_grad_(true);
      const ToeplitzProducts all{inputs[0], inputs[1], inputs[2], inputs[3], causal};
      const Tensor wanted = at::matmul(
          at::matmul(all.q, all.k.transpose(2, 3)) * matrix_of(all.factors, causal), all.v);
      const Tensor g = random_tensor(wanted.sizes(), 5);
      const auto expected = torch::autograd::grad({(wanted * g).sum()}, inputs);
      for (const bool fft : {false, true}) {
        const Tensor y = fft ? toeplitz_products_fft(all) : toeplitz_products_direct(all);
        const double size = wanted.abs().max().item<double>();
        expect_near(fft ? "fft" : "direct", y, wanted, 1e-12 * std::max(1.0, size));
        const auto found = torch::autograd::grad({(y * g).sum()}, inputs);
        for (size_t i = 0; i < inputs.size(); ++i)
          expect_near("gradient", found[i], expected[i],
                      1e-12 * std::max(1.0, expected[i].abs().max().item<double>()));
      }
    }
  }
}

TEST(property, kernel_rpe_fft_products_ignore_factors_of_the_future) {
  Tensor factors = random_tensor({1, 139}, 4).exp();
  factors.narrow(1, 70, 69).fill_(INFINITY);
  const Tensor q = random_tensor({1, 1, 70, 3}, 1);
  for (const bool fft : {false, true}) {
    const ToeplitzProducts all{q, q, q, factors, true};
    const Tensor y = fft ? toeplitz_products_fft(all) : toeplitz_products_direct(all);
    EXPECT_TRUE(y.isfinite().all().item<bool>());
  }
}

// ---- the mixer

std::string word(const MixerCase& what, const std::string& key, const std::string& otherwise) {
  for (const auto& [name, value] : what.options)
    if (name == key) return *value.get<std::string>();
  return otherwise;
}

/// The definition with all pairs, features by their formulas.
Tensor by_definition(Mixer& mixer, const MixerCase& what, int64_t kv_heads, const Tensor& x,
                     const Tensor& valid) {
  const auto p = mixer.named_tensors();
  const auto map = [&](const std::string& name, int64_t heads) {
    const Tensor y = at::linear(x, p.at(name + ".weight"), p.at(name + ".bias"));
    const Tensor split = y.unflatten(2, {heads, -1}).transpose(1, 2);
    return heads == what.heads ? split : split.repeat_interleave(what.heads / heads, 1);
  };
  const std::string kind = word(what, "feature_map", "prf");
  const auto features = [&](const Tensor& raw) {
    const Tensor u = raw / raw.square().sum(-1, true).sqrt();
    if (kind == "relu") return at::where(u > 0, u, 0.0);
    if (kind == "elu") return at::where(u > 0, u + 1, u.exp());
    const Tensor w = p.at("features.weight"), wu = at::matmul(u, w.t());
    if (kind == "prf") return (wu - 0.5).exp() / std::sqrt(static_cast<double>(w.size(0)));
    return std::exp(0.5) * at::cat({wu.sin(), wu.cos()}, -1) /
           std::sqrt(static_cast<double>(w.size(0)));
  };
  const int64_t n = x.size(1);
  const Tensor relative = at::arange(n).unsqueeze(0) - at::arange(n).unsqueeze(1);
  const std::string bias = word(what, "bias", "table");
  Tensor b = at::zeros({what.heads, n, n}, at::kDouble);
  if (bias == "table")
    b = p.at("rel_bias").index_select(1, (relative.clamp(-8, 8) + 8).flatten()).view_as(b);
  if (bias == "t5_bucket")
    b = p.at("rel_bias")
            .index_select(1, t5_bucket(relative, !what.causal, 32, 128).flatten())
            .view_as(b);
  if (bias == "exponential") b = -(p.at("decay").exp() + 1).log().view({-1, 1, 1}) * relative.abs();
  Tensor weights = at::matmul(features(map("q_proj", what.heads)),
                              features(map("k_proj", kv_heads)).transpose(2, 3)) *
                   b.exp();
  if (what.causal) weights = weights.tril();
  if (valid.defined()) weights = weights * valid.unsqueeze(1).unsqueeze(2);
  const Tensor sum = weights.sum(-1, true);
  const Tensor y = at::matmul(weights / at::where(sum == 0, 1.0, sum), map("v_proj", kv_heads));
  return at::linear(y.transpose(1, 2).flatten(2), p.at("out_proj.weight"), p.at("out_proj.bias"));
}

TEST(property, kernel_rpe_fft_by_definition) {
  for (const char* map : {"prf", "trf", "elu", "relu"}) {
    for (const char* bias : {"table", "t5_bucket", "exponential", "none"}) {
      for (const bool causal : {false, true}) {
        for (const char* algorithm : {"direct", "fft"}) {
          MixerCase what = rpe_case({{"feature_map", Value(map)},
                                     {"bias", Value(bias)},
                                     {"algorithm", Value(algorithm)},
                                     {"features", int64_t{40}},
                                     {"kv_heads", int64_t{1}}},
                                    causal);
          const auto mixer = shaken(what);
          const Tensor x = random_tensor({2, 80, 12}, 1).requires_grad_(true);
          Tensor holes = random_tensor({2, 80}, 2) > -0.5;
          holes[0].narrow(0, 0, 3).fill_(false);
          for (const Tensor& valid : {Tensor(), holes}) {
            SCOPED_TRACE(std::string(map) + " " + bias + " " + algorithm);
            const Tensor y = run(*mixer, x, valid);
            const Tensor wanted = by_definition(*mixer, what, 1, x, valid);
            // Trigonometric features may add up to nearly 0.
            const double tolerance =
                (map[0] == 't' ? 1e-6 : 1e-9) * std::max(1.0, wanted.abs().max().item<double>());
            expect_near("outputs", y, wanted, tolerance);
            if (map[0] == 't') continue;
            std::vector<Tensor> inputs{x};
            for (const Parameter& parameter : mixer->parameters())
              inputs.push_back(parameter.tensor);
            const Tensor g = random_tensor(y.sizes(), 3);
            const auto ours = torch::autograd::grad({(y * g).sum()}, inputs);
            const auto theirs = torch::autograd::grad({(wanted * g).sum()}, inputs);
            for (size_t i = 0; i < ours.size(); ++i)
              expect_near("gradients", ours[i], theirs[i],
                          1e-8 * std::max(1.0, theirs[i].abs().max().item<double>()));
          }
        }
      }
    }
  }
}

TEST(property, kernel_rpe_fft_constants_cancel) {
  const c10::NoGradGuard no_grad;
  for (const bool causal : {false, true}) {
    const auto mixer = shaken(rpe_case({{"algorithm", Value("fft")}}, causal));
    const Tensor x = random_tensor({2, 90, 12}, 1), y = run(*mixer, x);
    const Tensor table = mixer->named_tensors().at("rel_bias").clone();
    fill(*mixer, "rel_bias", table + at::tensor({700.0, -700.0}, at::kDouble).unsqueeze(1));
    expect_near("a constant for each head", run(*mixer, x), y, 1e-11);
    // A bias that is the same everywhere is none.
    fill(*mixer, "rel_bias", at::full_like(table, 3.0));
    const auto plain = rpe_case({{"bias", Value("none")}}, causal).make();
    for (const auto& [name, tensor] : plain->named_tensors())
      tensor.copy_(mixer->named_tensors().at(name));
    expect_near("no bias", run(*mixer, x), run(*plain, x), 1e-11);
  }
}

TEST(property, kernel_rpe_fft_sees_no_future) {
  const c10::NoGradGuard no_grad;
  for (const bool fft : {false, true}) {
    const auto mixer = shaken(rpe_case({{"algorithm", Value(fft ? "fft" : "direct")}}));
    const Tensor x = random_tensor({1, 100, 12}, 1), y = run(*mixer, x);
    for (const int64_t j : {1, 40, 64, 80, 99}) {
      Tensor changed = x.clone();
      changed.select(1, j).add_(1.0);
      const Tensor z = run(*mixer, changed);
      // An FFT spreads rounding, so that only the first rows keep every bit.
      expect_near("before", z.narrow(1, 0, j), y.narrow(1, 0, j), fft ? 1e-12 : 0.0);
      const int64_t exact = std::min<int64_t>(j, 64);
      expect_near("first rows", z.narrow(1, 0, exact), y.narrow(1, 0, exact), 0.0);
      EXPECT_GT((z.select(1, j) - y.select(1, j)).abs().max().item<double>(), 1e-6);
    }
  }
}

TEST(property, kernel_rpe_fft_one_token_and_none) {
  const c10::NoGradGuard no_grad;
  for (const char* algorithm : {"direct", "fft"}) {
    const auto mixer = shaken(rpe_case({{"algorithm", Value(algorithm)}}, false));
    const auto p = mixer->named_tensors();
    const auto out = [&](const Tensor& y) {
      return at::linear(y, p.at("out_proj.weight"), p.at("out_proj.bias"));
    };
    const Tensor x = random_tensor({2, 1, 12}, 1);
    const Tensor v = at::linear(x, p.at("v_proj.weight"), p.at("v_proj.bias"));
    expect_near("its own value", run(*mixer, x), out(v), 1e-12);
    const Tensor none = at::zeros({2, 5}, at::kBool);
    expect_near("no key", run(*mixer, random_tensor({2, 5, 12}, 2), none),
                out(at::zeros({2, 5, 12}, at::kDouble)), 0.0);
  }
}

TEST(property, kernel_rpe_fft_moves_with_its_content) {
  const c10::NoGradGuard no_grad;
  for (const char* algorithm : {"direct", "fft"}) {
    const auto mixer = shaken(rpe_case({{"algorithm", Value(algorithm)}}, false));
    const Tensor x = random_tensor({1, 12, 12}, 1), rest = random_tensor({1, 20, 12}, 2);
    const auto placed = [&](int64_t shift) {
      const Tensor all = rest.clone();
      all.narrow(1, shift, 12).copy_(x);
      Tensor valid = at::zeros({1, 20}, at::kBool);
      valid.narrow(1, shift, 12).fill_(true);
      return run(*mixer, all, valid).narrow(1, shift, 12);
    };
    for (const int64_t shift : {1, 5, 8}) expect_near("moved", placed(shift), placed(0), 1e-11);
  }
}

TEST(property, kernel_rpe_fft_features) {
  const int64_t draws = 200000;
  const Tensor w = random_directions(draws, 3, false, RandomStream(1)).to(at::kDouble);
  const Tensor q = at::tensor({0.3, -0.2, 0.4}, at::kDouble);
  const Tensor k = at::tensor({0.1, 0.5, 0.2}, at::kDouble);
  const double exact = std::exp(q.dot(k).item<double>());
  const Tensor products = positive_features(q, w) * positive_features(k, w) * draws;
  EXPECT_NEAR(products.mean().item<double>(), exact, 0.01 * exact);
  const double both = (q + k).square().sum().item<double>();
  const double variance = exact * exact * (std::exp(both) - 1.0);
  EXPECT_NEAR(products.var().item<double>(), variance, 0.05 * variance);
  const Tensor waves = trigonometric_features(q, w) * trigonometric_features(k, w);
  EXPECT_NEAR(waves.sum().item<double>(), exact, 0.01 * exact);
}

TEST(property, kernel_rpe_fft_directions) {
  const Tensor w = random_directions(20, 8, true, RandomStream(2)).to(at::kDouble);
  EXPECT_EQ(w.sizes(), at::IntArrayRef({20, 8}));
  for (const int64_t from : {0, 8, 16}) {
    const Tensor block = w.narrow(0, from, std::min<int64_t>(8, 20 - from));
    const Tensor gram = at::matmul(block, block.t());
    expect_near("orthogonal", gram - at::diag(gram.diagonal()), at::zeros_like(gram), 1e-5);
  }
  // Lengths as of normal rows: their squares have mean 8.
  const Tensor many = random_directions(8000, 8, true, RandomStream(3));
  EXPECT_NEAR(many.square().sum(1).mean().item<double>(), 8.0, 0.25);
}

TEST(property, kernel_rpe_fft_weights) {
  const c10::NoGradGuard no_grad;
  const auto mixer = shaken(rpe_case({}));
  Recorder recorder;
  Stream stream;
  stream.place = "layers.0.mixer";
  stream.observer = &recorder;
  const Tensor x = random_tensor({2, 9, 12}, 1);
  const Tensor y = mixer->forward(x, stream);
  expect_same_bits("looking changes nothing", y, run(*mixer, x));
  const Tensor weights = recorder.seen.at("layers.0.mixer.attention");
  EXPECT_GE(weights.min().item<double>(), 0.0);
  expect_near("sum", weights.sum(-1), at::ones({2, 2, 9}, at::kDouble));
  expect_near("causal", weights.triu(1), at::zeros_like(weights), 0.0);
  const auto p = mixer->named_tensors();
  const Tensor mixed = at::matmul(weights, recorder.seen.at("layers.0.mixer.value"));
  expect_near(
      "these are the weights",
      at::linear(mixed.transpose(1, 2).flatten(2), p.at("out_proj.weight"), p.at("out_proj.bias")),
      y, 1e-12);
}

TEST(property, kernel_rpe_fft_approaches_softmax) {
  const c10::NoGradGuard no_grad;
  const Tensor x = random_tensor({4, 12, 12}, 1);
  const auto error = [&](int64_t features) {
    const auto mixer = shaken(rpe_case({{"features", features}, {"orthogonal", false}}, false));
    const auto p = mixer->named_tensors();
    const auto map = [&](const std::string& name) {
      return at::linear(x, p.at(name + ".weight"), p.at(name + ".bias"))
          .unflatten(2, {2, -1})
          .transpose(1, 2);
    };
    const auto unit = [](const Tensor& t) { return t / t.norm(2, {-1}, true); };
    const Tensor relative = at::arange(12).unsqueeze(0) - at::arange(12).unsqueeze(1);
    const Tensor b =
        p.at("rel_bias").index_select(1, (relative.clamp(-8, 8) + 8).flatten()).view({2, 12, 12});
    const Tensor scores = at::matmul(unit(map("q_proj")), unit(map("k_proj")).transpose(2, 3)) + b;
    const Tensor y = at::matmul(scores.softmax(-1), map("v_proj"));
    const Tensor wanted =
        at::linear(y.transpose(1, 2).flatten(2), p.at("out_proj.weight"), p.at("out_proj.bias"));
    return (run(*mixer, x) - wanted).square().mean().sqrt().item<double>();
  };
  // 1/sqrt(256) = 0.06 of it, give or take what one draw does.
  EXPECT_LT(error(16384), 0.2 * error(64));
}

TEST(property, kernel_rpe_fft_float32) {
  const c10::NoGradGuard no_grad;
  const int64_t n = 4096;
  const Tensor x = random_tensor({1, n, 32}, 1, at::kFloat);
  for (const bool causal : {false, true}) {
    std::map<std::string, Tensor> outputs;
    for (const char* form : {"exact", "direct", "fft"}) {
      MixerCase what = rpe_case(
          {{"algorithm", Value(form[0] == 'f' ? "fft" : "direct")}, {"max_distance", n}}, causal);
      what.width = 32;
      what.heads = 1;
      const auto mixer = what.make();
      fill(*mixer, "rel_bias",
           at::empty({1, 2 * n - 1}).uniform_(0, 1, generator_of(RandomStream(9))));
      if (form[0] != 'e') mixer->to(at::kFloat);
      outputs[form] = run(*mixer, form[0] == 'e' ? x.to(at::kDouble) : x).to(at::kDouble);
    }
    const double largest = outputs["exact"].abs().max().item<double>();
    expect_near("direct", outputs["direct"], outputs["exact"], 1e-6 * largest);
    expect_near("fft", outputs["fft"], outputs["exact"], 1e-5 * largest);
  }
}

TEST(property, kernel_rpe_fft_decodes) {
  for (const Table& options : {Table{}, Table{{"bias", "t5_bucket"}, {"kv_heads", int64_t{1}}},
                               Table{{"bias", "exponential"}, {"kv_heads", int64_t{1}}},
                               Table{{"bias", "none"}, {"feature_map", "elu"}},
                               Table{{"normalize_qk", false}, {"features", int64_t{5}}}}) {
    check_decoding(*shaken(rpe_case(options)), 12);
  }
}

TEST(property, kernel_rpe_fft_long_prompts) {
  const c10::NoGradGuard no_grad;
  const Tensor x = random_tensor({2, 300, 12}, 1);
  for (const char* bias : {"table", "exponential"}) {
    for (const char* algorithm : {"direct", "fft"}) {
      const auto mixer = shaken(rpe_case({{"bias", bias}, {"algorithm", algorithm}}));
      State state = mixer->make_state(2, 400, at::kDouble);
      std::vector<Tensor> parts;
      parts.push_back(feed(*mixer, x.narrow(1, 0, 200), state));
      parts.push_back(feed(*mixer, x.narrow(1, 200, 97), state));
      for (int64_t i = 297; i < 300; ++i) parts.push_back(feed(*mixer, x.narrow(1, i, 1), state));
      expect_near("decoded", at::cat(parts, 1), run(*mixer, x), 1e-11);
    }
  }
  const auto bytes = [](const char* bias) {
    return rpe_case({{"bias", bias}}).make()->make_state(3, 10, at::kFloat).bytes();
  };
  EXPECT_EQ(bytes("table"), 3 * 2 * 10 * (6 + 6) * 4);
  EXPECT_EQ(bytes("exponential"), 3 * 2 * 6 * 7 * 4);
}

TEST(property, kernel_rpe_fft_half_precision) {
  const c10::NoGradGuard no_grad;
  for (const char* bias : {"table", "exponential"}) {
    const MixerCase what = rpe_case({{"bias", bias}});
    const auto mixer = shaken(what), exact = shaken(what);
    mixer->to(at::kBFloat16);
    const auto rounded = mixer->named_tensors();
    for (const auto& [name, tensor] : exact->named_tensors()) tensor.copy_(rounded.at(name));
    const Tensor x = random_tensor({2, 30, 12}, 8, at::kFloat).to(at::kBFloat16);
    State state = mixer->make_state(2, 64, at::kBFloat16);
    const Tensor y = at::cat(
        {feed(*mixer, x.narrow(1, 0, 20), state), feed(*mixer, x.narrow(1, 20, 10), state)}, 1);
    EXPECT_EQ(y.scalar_type(), at::kBFloat16);
    expect_near("bfloat16", y.to(at::kDouble), run(*exact, x.to(at::kDouble)), 0.05);
  }
}

TEST(property, kernel_rpe_fft_large_inputs_stay_finite) {
  const c10::NoGradGuard no_grad;
  const auto mixer = shaken(rpe_case({{"normalize_qk", false}}));
  mixer->to(at::kFloat);
  for (const double size : {1e-6, 30.0, 1e3}) {
    const Tensor y = run(*mixer, size * random_tensor({2, 20, 12}, 3, at::kFloat));
    EXPECT_TRUE(y.isfinite().all().item<bool>()) << size;
  }
}

TEST(property, kernel_rpe_fft_redraws) {
  const MixerCase what = rpe_case({{"redraw_interval", int64_t{10}}});
  const auto a = what.make(), b = what.make();
  const auto directions = [](Mixer& mixer) {
    return mixer.named_tensors().at("features.weight").clone();
  };
  const auto at_step = [](Mixer& mixer, int64_t step) {
    mixer.visit([&](const std::string&, Module& module) { module.before_step({step, 0.0}); });
  };
  const Tensor first = directions(*a);
  for (int64_t step = 0; step < 10; ++step) at_step(*a, step);
  expect_same_bits("not yet", directions(*a), first);
  for (int64_t step = 10; step < 25; ++step) at_step(*a, step);
  EXPECT_FALSE(directions(*a).equal(first));
  at_step(*b, 24);  // resumed there
  expect_same_bits("a function of the step", directions(*b), directions(*a));
}

TEST(property, kernel_rpe_fft_refusals) {
  const auto says = [](const Table& options, const std::string& part) {
    expect_refused([&] { MixerCase{"kernel_rpe", options}.make(); }, part);
  };
  says({{"features", int64_t{0}}}, "features");
  says({{"fft_dtype", "float16"}}, "fft_dtype");
  says({{"feature_map", "cosine"}}, "feature_map");
  says({{"kv_heads", int64_t{3}}}, "kv_heads");
  Site site = plain_site(12, 2);
  site.attention_dropout = 0.1;
  expect_refused([&] { Choice<Mixer>("kernel_rpe").make(site); }, "attention_dropout");
  const Mixer::Traits traits = Choice<Mixer>("kernel_rpe").traits();
  EXPECT_FALSE(traits.rotary || traits.bias || traits.equivariant);
  expect_refused(
      [&] {
        MixerCase both{"kernel_rpe", {}, false};
        both.make()->make_state(1, 8, at::kDouble);
      },
      "both ways");
}

}  // namespace
}  // namespace formwork::test

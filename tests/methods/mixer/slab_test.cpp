// Both halves of SLAB: the mixer, and the norm that training replaces.
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <array>

#include "methods/norm/progression.h"
#include "support/gradcheck.h"
#include "support/mixers.h"
#include "support/stepwise.h"
#include "training/precision.h"

namespace formwork::test {
namespace {

// ---- the norm

/// The authors' counters at the call `call`.
Progression progression_of(const GoldenCase& golden) {
  Progression progression;
  progression.warm = golden.option<int64_t>("warm", 0);
  progression.total = golden.option<int64_t>("total_step", 300000);
  progression.start = golden.option("r0", 1.0);
  return progression;
}

void check_counters(const GoldenCase& golden, int64_t call, int64_t every) {
  const Progression progression = progression_of(golden);
  const std::string step = "step" + std::to_string(call);
  const int64_t after = call / every + 1, later = call % every == 0 ? 0 : 1;
  if (golden.has("buffer." + step + ".iter")) {
    EXPECT_EQ(golden.at("buffer." + step + ".iter").item<int64_t>(), progression.left(after));
    EXPECT_EQ(golden.at("buffer." + step + ".warm").item<int64_t>(),
              std::max<int64_t>(0, progression.warm - after));
  }
  if (!golden.has("out.lambda_per_step")) return;
  const Elapsed elapsed{call / every, 0.0};
  EXPECT_DOUBLE_EQ(golden.at("out.lambda_per_step")[call].item<double>(),
                   progression.warming(elapsed, later) ? 1.0 : progression.share(elapsed, later));
}

/// RepBN after a linear map as one linear map.
void check_fold_into_previous(const GoldenCase& golden, Norm& norm) {
  if (!golden.has("in.pre.x")) return;
  const c10::NoGradGuard no_grad;
  const Affine all = *norm.folded();
  const Tensor weight = golden.at("param.pre_linear.weight"),
               bias = golden.at("param.pre_linear.bias");
  const Tensor folded = all.scale.unsqueeze(1) * weight, shift = all.scale * bias + all.shift;
  expect_close(golden.file + " pre", folded, golden.at("param.pre_fused.weight"));
  expect_close(golden.file + " pre bias", shift, golden.at("param.pre_fused.bias"));
  const Tensor x = golden.at("in.pre.x");
  expect_close(golden.file + " pre y", at::linear(x, folded, shift), golden.at("out.pre.y"));
  expect_close(golden.file + " pre norm", norm.forward(at::linear(x, weight, bias)),
               golden.at("out.pre.y"));
}

void check_norm(const GoldenCase& golden) {
  const Progression progression = progression_of(golden);
  const auto every = golden.option<int64_t>("counter_every", 1);
  const bool layer = golden.has("param.ln.bias");
  const auto norm = make_norm("prepbn", golden.at("param.ln.weight").size(0),
                              {{"base_norm", layer ? "layer" : "rms"},
                               {"warm", progression.warm},
                               {"total_step", progression.total},
                               {"r0", progression.start},
                               {"counter_every", every},
                               {"ln_eps", golden.option("ln_eps", 1e-5)},
                               {"bn_eps", golden.option("bn_eps", 1e-5)},
                               {"momentum", golden.option("bn_momentum", 0.1)}});
  Steps steps{golden,
              *norm,
              {{"running_mean", {"repbn.bn.running_mean", 1.0}},
               {"running_var", {"repbn.bn.running_var", 1.0}}},
              {"iter", "warm", "num_step", "num_batches_tracked"},
              [&](int64_t call) {
                if (call % every == 0) norm->before_step({call / every, 0.0});
                check_counters(golden, call, every);
              }};
  check_steps(steps);
  check_fold_into_previous(golden, *norm);
}

// ---- the mixer

void check_mixer(const GoldenCase& golden) {
  const Tensor x = golden.at("in.x").clone().requires_grad_(true);
  const int64_t width = x.size(-1);
  MixerCase what{"slab", {}, false, width, golden.option<int64_t>("H", 1)};
  const auto grid = golden.config.at("grid").get<std::vector<int64_t>>();
  what.options = {{"grid", List{Value(grid[0]), Value(grid[1])}},
                  {"kernel_size", golden.option<int64_t>("kernel_size", 5)},
                  {"eps", golden.option("eps", 1e-6)},
                  {"pos", golden.has("param.positional_encoding")},
                  {"bias", golden.has("param.qkv_proj.bias")}};
  const auto mixer = what.make();
  const char* parts[] = {"q_proj.", "k_proj.", "v_proj."};
  // The authors' one map for queries, keys and values is three of ours.
  const auto golden_of = [&](const std::string& prefix, const std::string& name) {
    for (int64_t i = 0; i < 3; ++i)
      if (name.starts_with(parts[i]))
        return golden.at(prefix + "qkv_proj." + name.substr(7)).narrow(0, i * width, width);
    if (name == "out_proj.bias" && !golden.has(prefix + name))
      return at::zeros({width}, at::kDouble);
    return golden.at(prefix + name);
  };
  for (const Parameter& parameter : mixer->parameters())
    Tensor(parameter.tensor).set_data(golden_of("param.", parameter.name).clone());
  const Tensor valid = golden.has("in.pad_mask") ? golden.at("in.pad_mask") > 0.5 : Tensor();
  const Tensor y = run(*mixer, x, valid);
  expect_close(golden.file + " y", y, golden.at("out.y"));
  (y * golden.at("in.cotangent")).sum().backward();
  expect_close(golden.file + " grad x", x.grad(), golden.at("grad.in.x"));
  for (const Parameter& parameter : mixer->parameters())
    expect_close(golden.file + " grad " + parameter.name, parameter.tensor.grad(),
                 golden_of("grad.param.", parameter.name));
}

TEST(golden, slab) {
  for (const GoldenCase& golden : golden_cases("slab")) {
    if (golden.has("in.x"))
      check_mixer(golden);
    else
      check_norm(golden);
  }
}

TEST(property, slab_norm_goes_from_the_first_to_the_second) {
  const Tensor x = random_tensor({4, 5, 6}, 1);
  const Tensor first = at::layer_norm(x, {6}, {}, {}, 1e-5);
  const Tensor mean = x.mean({0, 1});
  const Tensor variance = (x - mean).square().mean({0, 1});
  const Tensor second = (x - mean) / (variance + 1e-5).sqrt() + x;
  for (const bool steps : {true, false}) {
    const auto norm = make_norm("prepbn", 6,
                                steps ? Table{{"warm", int64_t{2}}, {"total_step", int64_t{6}}}
                                      : Table{{"warm_fraction", 0.2}, {"total_fraction", 0.6}});
    for (int64_t step = 0; step < 10; ++step) {
      norm->before_step({step, static_cast<double>(step) / 10});
      const double share = step < 2 ? 1.0 : std::max(0.0, 1.0 - (step - 2) / 6.0);
      expect_near("mixture", norm->forward(x), share * first + (1 - share) * second, 1e-12);
      const Tensor moved = norm->named_tensors().at("repbn.bn.running_mean");
      EXPECT_EQ(moved.abs().max().item<double>() > 0, step >= 2) << step;
    }
  }
}

TEST(property, slab_norm_counts_micro_batches_as_the_authors_do) {
  // Their counters: only the first of `every` passes moves them, every pass looks at them.
  const int64_t every = 3;
  const Progression progression{.warm = 2, .total = 4};
  int64_t warm = 2, iter = 4;
  for (int64_t call = 0; call < 24; ++call) {
    const Elapsed elapsed{call / every, 0.0};
    const bool first = call % every == 0;
    EXPECT_EQ(progression.warming(elapsed, first ? 0 : 1), warm > 0) << call;
    if (warm > 0) {
      warm -= first ? 1 : 0;
      continue;
    }
    EXPECT_DOUBLE_EQ(progression.share(elapsed, first ? 0 : 1), static_cast<double>(iter) / 4);
    if (first && iter > 0) --iter;
  }
  EXPECT_EQ(iter, 0);
  // And the norm follows them: a second pass of step 2 is already one quarter the batch's.
  const auto norm = make_norm(
      "prepbn", 4, {{"warm", int64_t{2}}, {"total_step", int64_t{4}}, {"counter_every", every}});
  norm->before_step({2, 0.0});
  const Tensor x = random_tensor({6, 4}, 8);
  const Tensor token = at::layer_norm(x, {4}, {}, {}, 1e-5), centred = x - x.mean(0);
  const Tensor batch = centred / (centred.square().mean(0) + 1e-5).sqrt() + x;
  expect_near("first", norm->forward(x), token, 1e-12);
  expect_near("second", norm->forward(x), 0.75 * token + 0.25 * batch, 1e-12);
}

TEST(property, slab_norm_masked_rms_form) {
  // The form for language models: RMS norm, statistics of valid tokens, eta x for the others.
  const auto norm =
      make_norm("prepbn", 4, {{"base_norm", "rms"}, {"total_step", int64_t{4}}, {"eta_init", 0.5}});
  norm->before_step({1, 0.0});
  const Tensor x = random_tensor({2, 5, 4}, 8), valid = lengths_mask({3, 5}, 5);
  const Tensor token = x / (x.square().mean(-1, true) + 1e-5).sqrt();
  const Tensor kept = x.index({valid}), centred = x - kept.mean(0);
  const Tensor variance = (kept - kept.mean(0)).square().mean(0);
  const Tensor batch =
      at::where(valid.unsqueeze(-1), centred / (variance + 1e-5).sqrt(), at::zeros_like(x)) +
      0.5 * x;
  expect_near("mixed", norm->forward(x, valid), 0.75 * token + 0.25 * batch, 1e-12);
  const auto running = norm->named_tensors();
  expect_near("mean", running.at("repbn.bn.running_mean"), 0.1 * kept.mean(0), 1e-12);
  expect_near("variance", running.at("repbn.bn.running_var"), 0.9 + 0.1 * variance * 8.0 / 7.0,
              1e-12);
}

TEST(property, slab_norm_gradients) {
  const Tensor valid = lengths_mask({2, 4}, 4);
  for (const int64_t step : {0, 1, 3, 9}) {
    for (const Tensor& mask : {Tensor(), valid}) {
      const auto norm = make_norm("prepbn", 3, {{"warm", int64_t{1}}, {"total_step", int64_t{4}}});
      norm->before_step({step, 0.0});
      NamedLeaves leaves{{"x", random_leaf({2, 4, 3}, 4)}};
      {
        const c10::NoGradGuard no_grad;
        for (const Parameter& parameter : norm->parameters())
          Tensor(parameter.tensor).add_(random_tensor(parameter.tensor.sizes(), 9), 0.3);
      }
      // A norm that takes no part has no gradient to compare.
      for (const Parameter& parameter : norm->parameters())
        if (parameter.name.starts_with("ln") ? step < 5 : step > 1)
          leaves.emplace_back(parameter.name, parameter.tensor);
      expect_gradients(
          "step " + std::to_string(step), [&] { return norm->forward(leaves[0].second, mask); },
          leaves);
    }
  }
}

TEST(property, slab_norm_in_one_pass_is_the_two_mixed) {
  // With a mask, even one that leaves all tokens, the two norms are taken one after the other.
  const Tensor all = at::ones({3, 50}, at::kBool);
  for (const char* base : {"layer", "rms"}) {
    for (const auto type : {at::kDouble, at::kFloat}) {
      for (const int64_t width : {1, 6, 37}) {
        std::array<std::vector<Tensor>, 2> results;
        for (const int way : {0, 1}) {
          const auto norm =
              make_norm("prepbn", width, {{"base_norm", base}, {"total_step", int64_t{4}}});
          norm->to(type);
          norm->before_step({1, 0.0});
          const c10::NoGradGuard no_grad;
          for (const Parameter& parameter : norm->parameters())
            Tensor(parameter.tensor).add_(random_tensor(parameter.tensor.sizes(), 9).to(type), 0.3);
          const c10::AutoGradMode grad(true);
          const Tensor x = (random_tensor({3, 50, width}, 4) + 2).to(type).requires_grad_(true);
          const Tensor y = norm->forward(x, way == 0 ? Tensor() : all);
          (y * random_tensor({3, 50, width}, 5).to(type)).sum().backward();
          results[way] = {y.detach(), x.grad()};
          for (const Parameter& parameter : norm->parameters())
            results[way].push_back(parameter.tensor.grad());
          for (const auto& [name, value] : norm->buffers()) results[way].push_back(value);
        }
        // With one channel a layer norm's parts are rounding errors.
        for (size_t i = 0; i < results[0].size(); ++i)
          expect_near(base, results[0][i].to(at::kDouble), results[1][i].to(at::kDouble),
                      type == at::kDouble ? 1e-10 : 1e-3);
      }
    }
  }
}

TEST(property, slab_norm_can_be_constant_and_folds) {
  const auto norm = make_norm("prepbn", 4, {{"total_step", int64_t{1}}});
  for (int64_t step = 0; step < 6; ++step) {
    norm->before_step({step, 0.0});
    norm->forward(random_tensor({6, 4}, 20 + step) * 3 + 100);  // far from 0: digits matter
  }
  norm->eval();
  const c10::NoGradGuard no_grad;
  const auto parts = norm->named_tensors();
  const Tensor x = random_tensor({2, 3, 4}, 2);
  const Affine all = *norm->folded();
  expect_near("folded", norm->forward(x), x * all.scale + all.shift, 1e-12);
  const Tensor eta = parts.at("repbn.eta");
  Tensor(parts.at("repbn.bn.weight"))
      .copy_(-eta * (parts.at("repbn.bn.running_var") + 1e-5).sqrt());
  const Tensor y = norm->forward(x);
  expect_near("constant", y, y[0][0].expand_as(y), 1e-9);
  const Tensor before = parts.at("repbn.bn.running_mean").clone();
  norm->forward(x);
  EXPECT_TRUE(at::equal(before, parts.at("repbn.bn.running_mean")));
}

TEST(property, slab_norm_keeps_digits_far_from_zero) {
  const auto norm = make_norm("prepbn", 4, {{"total_step", int64_t{1}}, {"eta_init", 0.0}});
  norm->to(at::kFloat);
  norm->before_step({5, 0.0});
  const Tensor x = random_tensor({4000, 4}, 3);
  const Tensor y = norm->forward((x + 1000).to(at::kFloat));
  const Tensor centred = x - x.mean(0);
  const Tensor wanted = centred / (centred.square().mean(0) + 1e-5).sqrt();
  expect_near("far", y.to(at::kDouble), wanted, 2e-3);
}

MixerCase plain_case(Table options, bool causal = false) {
  return {"slab", std::move(options), causal};
}

TEST(property, slab_orders_of_products_agree) {
  // K = 6: five tokens are mixed by pairs, more by sums; a padded tail leaves the rest as it was.
  const auto mixer = plain_case({{"kernel_size", int64_t{1}}, {"pos", false}}).make();
  const Tensor x = random_tensor({2, 20, 12}, 1);
  for (const int64_t n : {1, 5, 6, 7, 20}) {
    const Tensor part = x.narrow(1, 0, n);
    expect_near("order", run(*mixer, part),
                run(*mixer, x, at::arange(20).lt(n).expand({2, 20})).narrow(1, 0, n), 1e-10);
  }
}

TEST(property, slab_explicit_form) {
  const auto mixer = plain_case({{"grid", List{Value(int64_t{2}), Value(int64_t{3})}},
                                 {"kernel_size", int64_t{3}},
                                 {"n_prefix", int64_t{1}}})
                         .make();
  const c10::NoGradGuard no_grad;
  const auto p = mixer->named_tensors();
  Tensor(p.at("positional_encoding")).copy_(random_tensor({1, 7, 12}, 3));
  const Tensor x = random_tensor({2, 7, 12}, 1);
  for (const Tensor& valid : {Tensor(), lengths_mask({7, 5}, 7)}) {
    const auto map = [&](const std::string& name) {
      return at::linear(x, p.at(name + ".weight"), p.at(name + ".bias"));
    };
    const auto heads = [](const Tensor& t) { return t.unflatten(2, {2, 6}).transpose(1, 2); };
    const Tensor q = heads(map("q_proj")).relu();
    Tensor k = heads(map("k_proj") + p.at("positional_encoding")).relu(), v = heads(map("v_proj"));
    if (valid.defined()) {
      k = k * valid.unsqueeze(1).unsqueeze(3);
      v = v * valid.unsqueeze(1).unsqueeze(3);
    }
    const Tensor weights = at::matmul(q, k.transpose(2, 3));
    Tensor y = at::matmul(weights, v) / (weights.sum(-1, true) + 1e-6);
    for (int64_t row = 0; row < 2; ++row)
      for (int64_t column = 0; column < 3; ++column) {
        Tensor sum = p.at("dwc.bias").expand({2, 2, 6}).clone();
        for (int64_t i = -1; i <= 1; ++i)
          for (int64_t j = -1; j <= 1; ++j) {
            const int64_t r = row + i, c = column + j;
            if (r < 0 || r > 1 || c < 0 || c > 2) continue;
            sum = sum + p.at("dwc.weight").select(1, 0).select(1, i + 1).select(1, j + 1) *
                            v.select(2, 1 + r * 3 + c);
          }
        y.select(2, 1 + row * 3 + column).add_(sum);
      }
    const Tensor wanted =
        at::linear(y.transpose(1, 2).flatten(2), p.at("out_proj.weight"), p.at("out_proj.bias"));
    expect_near("explicit", run(*mixer, x, valid), wanted, 1e-10);
  }
}

TEST(property, slab_query_of_zero_leaves_the_convolution) {
  const auto mixer = plain_case({{"pos", false}}).make();
  const c10::NoGradGuard no_grad;
  const auto p = mixer->named_tensors();
  Tensor(p.at("q_proj.bias")).fill_(-1e6);
  const Tensor x = random_tensor({1, 9, 12}, 4);
  const Tensor v = at::linear(x, p.at("v_proj.weight"), p.at("v_proj.bias")).unflatten(2, {2, 6});
  const Tensor image = v.permute({0, 2, 3, 1}).reshape({2, 6, 1, 9});
  const std::vector<int64_t> padding{0, 2};
  const Tensor sums =
      at::conv2d(image, p.at("dwc.weight"), p.at("dwc.bias"), {1, 1}, padding, {1, 1}, 6);
  const Tensor wanted = at::linear(sums.reshape({1, 12, 9}).transpose(1, 2),
                                   p.at("out_proj.weight"), p.at("out_proj.bias"));
  expect_near("convolution", run(*mixer, x), wanted, 1e-10);
}

TEST(property, slab_without_places_and_convolution_is_equivariant) {
  const Table options{{"kernel_size", int64_t{1}}, {"pos", false}};
  const auto mixer = plain_case(options).make();
  const Tensor x = random_tensor({2, 9, 12}, 5);
  const Tensor order = at::randperm(9, generator_of(RandomStream(3)), at::kLong);
  expect_near("order", run(*mixer, x.index_select(1, order)), run(*mixer, x).index_select(1, order),
              1e-10);
}

TEST(property, slab_gradients) {
  for (const Table& options :
       {Table{{"grid", List{Value(int64_t{3}), Value(int64_t{4})}}},
        Table{{"kernel_size", int64_t{3}}, {"bias", false}, {"pos", false}}}) {
    const auto mixer = plain_case(options).make();
    NamedLeaves leaves{{"x", random_leaf({2, 12, 12}, 6)}};
    for (const Parameter& parameter : mixer->parameters())
      leaves.emplace_back(parameter.name, parameter.tensor);
    expect_gradients(
        "slab",
        [&] {
          return run(*mixer, leaves[0].second, lengths_mask({12, 8}, 12));
        },
        leaves);
  }
}

TEST(property, slab_causal_decodes) {
  const Table one{{"kernel_size", int64_t{1}}, {"pos", false}};
  check_decoding(*plain_case(one, true).make(), 12, 1e-11);
}

TEST(property, slab_adds_up_in_float32) {
  const auto mixer = plain_case({{"kernel_size", int64_t{1}}, {"pos", false}}).make();
  mixer->to(at::kFloat);
  const c10::NoGradGuard no_grad;
  const Tensor x = random_tensor({1, 2000, 12}, 7, at::kFloat);
  const Tensor exact = run(*mixer, x);
  const PrecisionGuard guard("bfloat16");
  const Tensor gap = (run(*mixer, x).to(at::kFloat) - exact).abs() / exact.abs().max();
  // Where all features of a query are almost 0, rounding them changes what they are divided by;
  // sums in bfloat16 would spoil nearly every token.
  EXPECT_LT(gap.gt(2e-2).to(at::kDouble).mean().item<double>(), 1e-3);
}

TEST(unit, slab_options) {
  const auto says = [](Table options, const std::string& part, bool causal = false) {
    expect_refused([&] { plain_case(options, causal).make(); }, part);
  };
  says({{"kernel_size", int64_t{4}}}, "an odd number");
  says({{"grid", List{Value(int64_t{4})}}}, "two numbers");
  says({}, "mixer.slab.kernel_size", true);
  const auto mixer = plain_case({{"grid", List{Value(int64_t{2}), Value(int64_t{3})}}}).make();
  expect_refused([&] { run(*mixer, random_tensor({1, 7, 12}, 1)); }, "7");
  expect_refused([] { make_norm("prepbn", 4, {{"warm", int64_t{3}}}); }, "total_step");
  expect_refused([] { make_norm("prepbn", 4, {{"r0", 1.5}}); }, "r0");
  expect_refused([] { make_norm("prepbn", 4, {{"warm_fraction", 0.5}}); }, "total_fraction");
}

}  // namespace
}  // namespace formwork::test

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "methods/mixer/collapse.h"
#include "methods/mixer/observed.h"
#include "support/conversion.h"
#include "support/gradcheck.h"
#include "support/mixers.h"
#include "support/refusal.h"

namespace formwork::test {
namespace {

const std::vector<std::string>& layouts() {
  static const std::vector<std::string> all{"unchanged", "symmetric", "collapsed_qk",     "minimal",
                                            "cholesky",  "mirrored",  "minimal_symmetric"};
  return all;
}

bool many_heads(const std::string& layout) {
  return layout == "unchanged" || layout == "symmetric";
}

MixerCase layout_case(const std::string& layout, bool causal = false, Table more = {}) {
  more.emplace_back("attention_layout", Value(layout));
  return {"minimal", std::move(more), causal, 12, many_heads(layout) ? 2 : 1};
}

/// Numbers that are trained, a triangle counted once.
int64_t trained_count(const Mixer& mixer) {
  int64_t count = 0;
  for (const Parameter& parameter : mixer.parameters()) {
    const int64_t rows = parameter.tensor.size(0);
    count += parameter.name == "tri.weight" ? rows * (rows + 1) / 2 : parameter.tensor.numel();
  }
  return count;
}

void check_stack(const GoldenCase& golden) {
  const auto layers = golden.option<int64_t>("S", 1);
  const auto param = [&](const std::string& side, int64_t s, const std::string& name) {
    return golden.at("param." + side + ".layer" + std::to_string(s) + "." + name + ".weight");
  };
  std::vector<HeadWeights> weights;
  for (int64_t s = 0; s < layers; ++s)
    weights.push_back({param("before", s, "q_proj"), param("before", s, "k_proj"),
                       param("before", s, "v_proj"), param("before", s, "out_proj")});
  const CollapsedStack stack = collapse_stack(weights);
  expect_close(golden.file + " vo", stack.value_output, golden.at("param.after.vo.weight"));
  const c10::NoGradGuard no_grad;
  Tensor before = golden.at("in.x"), after = before;
  const auto layer = [&](const std::string& layout, const std::map<std::string, Tensor>& given,
                         const Tensor& x) {
    MixerCase what = layout_case(layout);
    what.width = x.size(2);
    what.heads = 1;
    const auto mixer = what.make();
    for (const auto& [name, tensor] : given) mixer->named_tensors().at(name).copy_(tensor);
    return run(*mixer, x);
  };
  for (int64_t s = 0; s < layers; ++s) {
    const Tensor& own = stack.query_key[static_cast<size_t>(s)];
    expect_close(golden.file + " qk", own, param("after", s, "qk_proj"));
    const HeadWeights& w = weights[static_cast<size_t>(s)];
    before = layer("unchanged",
                   {{"q_proj.weight", w.query},
                    {"k_proj.weight", w.key},
                    {"v_proj.weight", w.value},
                    {"out_proj.weight", w.output}},
                   before);
    after = layer("minimal", {{"qk_proj.weight", own}}, after);
  }
  expect_close(golden.file + " before", before, golden.at("out.before"));
  expect_close(golden.file + " after", at::linear(after, stack.value_output),
               golden.at("out.after"));
}

void check_layout(const GoldenCase& golden) {
  std::string layout = golden.option<std::string>("variant", "unchanged");
  MixerCase what = layout_case(layout, golden.option("causal", false));
  what.width = golden.at("in.x").size(2);
  what.heads = golden.option<int64_t>("H", 1);
  what.options.emplace_back("bias", Value(golden.option("bias", false)));
  // A symmetric matrix has the name of its triangle whatever it is made of.
  if (layout == "minimal_symmetric")
    what.options.emplace_back("symmetric_factor",
                              Value(golden.option<std::string>("symmetric_factor", "cholesky")));
  const auto scale = golden.config.find("scale");
  if (scale != golden.config.end() && scale->is_number())
    what.options.emplace_back("scale", Value(scale->get<double>()));
  GoldenCase known = golden;
  if (golden.has("in.key_mask")) known.tensors["in.pad_mask"] = golden.at("in.key_mask");
  const auto mixer = what.make();
  check_golden(known, *mixer);
  if (golden.has("out.weights") && !known.has("in.pad_mask"))
    expect_close(golden.file + " weights", observed(*mixer, golden.at("in.x"), "attention"),
                 golden.at("out.weights"));
  if (golden.config.contains("params")) {
    EXPECT_EQ(trained_count(*mixer), golden.option<int64_t>("params", 0)) << golden.file;
  }
}

TEST(golden, minimal_transformer) {
  for (const GoldenCase& golden : golden_cases("minimal_transformer")) {
    if (golden.has("in.cotangent") || golden.config.contains("variant"))
      check_layout(golden);
    else
      check_stack(golden);
  }
}

TEST(property, minimal_transformer_counts) {
  const int64_t d = 12, triangle = d * (d + 1) / 2;
  const std::map<std::string, int64_t> wanted{
      {"unchanged", 4 * d * d},           {"symmetric", 3 * d * d},
      {"collapsed_qk", 3 * d * d},        {"minimal", d * d},
      {"cholesky", triangle + 2 * d * d}, {"mirrored", triangle + 2 * d * d},
      {"minimal_symmetric", triangle}};
  for (const std::string& layout : layouts())
    EXPECT_EQ(trained_count(*layout_case(layout).make()), wanted.at(layout)) << layout;
  EXPECT_EQ(
      trained_count(
          *layout_case("minimal_symmetric", false, {{"symmetric_factor", "mirrored"}}).make()),
      triangle);
}

TEST(property, minimal_transformer_by_definition) {
  const c10::NoGradGuard no_grad;
  const Tensor x = random_tensor({2, 7, 12}, 1);
  const Tensor valid = lengths_mask({7, 4}, 7);
  for (const char* factor : {"cholesky", "mirrored"}) {
    for (const std::string& layout : layouts()) {
      for (const bool causal : {false, true}) {
        MixerCase what = layout_case(layout, causal, {{"symmetric_factor", factor}});
        const auto mixer = what.make();
        const auto p = mixer->named_tensors();
        const auto heads = [&](const Tensor& t) {
          return t.unflatten(2, {what.heads, -1}).transpose(1, 2);
        };
        const auto map = [&](const std::string& name) {
          return heads(at::linear(x, p.at(name + ".weight")));
        };
        Tensor scores;
        if (layout == "unchanged" || layout == "symmetric") {
          const Tensor k = map(layout == "unchanged" ? "k_proj" : "q_proj");
          scores = at::matmul(map("q_proj"), k.transpose(2, 3));
        } else {
          Tensor m;
          if (p.count("qk_proj.weight")) {
            m = p.at("qk_proj.weight");
          } else {
            const Tensor t = p.at("tri.weight").tril();
            const bool mirrored = layout == "mirrored" || (layout == "minimal_symmetric" &&
                                                           std::string(factor) == "mirrored");
            m = mirrored ? t + t.t() - at::diag(t.diagonal()) : at::matmul(t, t.t());
          }
          scores = at::matmul(at::linear(x, m), x.transpose(1, 2)).unsqueeze(1);
        }
        scores = scores / std::sqrt(12.0 / static_cast<double>(what.heads));
        scores = scores.masked_fill(valid.logical_not().unsqueeze(1).unsqueeze(1), -INFINITY);
        if (causal) scores = scores.masked_fill(at::ones({7, 7}, at::kBool).triu(1), -INFINITY);
        const bool alone = layout.rfind("minimal", 0) == 0;
        Tensor y = at::matmul(scores.softmax(-1), alone ? x.unsqueeze(1) : map("v_proj"));
        y = y.transpose(1, 2).flatten(2);
        if (!alone) y = at::linear(y, p.at("out_proj.weight"));
        const Tensor keep = valid.unsqueeze(-1);
        expect_near(layout.c_str(), run(*mixer, x, valid) * keep, y * keep, 1e-12);
      }
    }
  }
}

TEST(property, minimal_transformer_symmetric_scores) {
  const c10::NoGradGuard no_grad;
  const Tensor x = random_tensor({2, 9, 12}, 2);
  for (const std::string layout : {"symmetric", "cholesky", "mirrored", "minimal_symmetric"}) {
    const Tensor s = observed(*layout_case(layout).make(), x, "scores");
    expect_near(layout.c_str(), s, s.transpose(2, 3), 1e-12);
    if (layout == "mirrored") continue;
    const Tensor own = s.diagonal(0, 2, 3);
    EXPECT_GE(own.min().item<double>(), 0.0);
    const Tensor bound = (own.unsqueeze(-1) * own.unsqueeze(-2)).sqrt();
    EXPECT_LE((s.abs() - bound).max().item<double>(), 1e-12) << layout;
    EXPECT_GE(at::linalg_eigvalsh(s).min().item<double>(), -1e-11) << layout;
  }
}

TEST(property, minimal_transformer_stays_inside) {
  const c10::NoGradGuard no_grad;
  const auto mixer = layout_case("minimal").make();
  Tensor x = random_tensor({2, 9, 12}, 3);
  const auto spread = [](const Tensor& t) {
    return (t.unsqueeze(2) - t.unsqueeze(1)).norm(2, {-1}).amax({1, 2});
  };
  const Tensor same = random_tensor({2, 1, 12}, 4).expand({2, 9, 12}).contiguous();
  expect_near("equal tokens stay", run(*mixer, same), same, 1e-12);
  for (int64_t layer = 0; layer < 5; ++layer) {
    const Tensor y = run(*mixer, x);
    EXPECT_LE((y - x.amax(1, true)).max().item<double>(), 1e-12);
    EXPECT_LE((x.amin(1, true) - y).max().item<double>(), 1e-12);
    EXPECT_LE((spread(y) - spread(x)).max().item<double>(), 1e-12);
    x = y;
  }
  mixer->named_tensors().at("qk_proj.weight").zero_();
  expect_near("mean", run(*mixer, x), x.mean(1, true).expand_as(x), 1e-12);
}

TEST(property, minimal_transformer_shared_matrix_gathers_both_gradients) {
  const Tensor x = random_tensor({2, 6, 12}, 5);
  const auto shared = layout_case("symmetric").make(), apart = layout_case("unchanged").make();
  {
    const c10::NoGradGuard no_grad;
    for (const auto& [name, tensor] : apart->named_tensors())
      tensor.copy_(shared->named_tensors().at(name == "k_proj.weight" ? "q_proj.weight" : name));
  }
  const Tensor g = random_tensor({2, 6, 12}, 6);
  const Tensor y = run(*shared, x), z = run(*apart, x);
  expect_near("outputs", y, z);
  (y * g).sum().backward();
  (z * g).sum().backward();
  const auto ours = shared->named_tensors(), theirs = apart->named_tensors();
  expect_near("sum", ours.at("q_proj.weight").grad(),
              theirs.at("q_proj.weight").grad() + theirs.at("k_proj.weight").grad());
}

TEST(property, minimal_transformer_triangle) {
  for (const std::string layout : {"cholesky", "mirrored", "minimal_symmetric"}) {
    const auto mixer = layout_case(layout).make();
    const Tensor x = random_tensor({2, 6, 12}, 7);
    const Tensor y = run(*mixer, x);
    Tensor triangle = mixer->named_tensors().at("tri.weight");
    y.square().sum().backward();
    const Tensor gradient = triangle.grad();
    expect_same_bits("above", gradient.triu(1), at::zeros_like(gradient));
    EXPECT_GT(gradient.abs().max().item<double>(), 1e-6);
    const c10::NoGradGuard no_grad;
    triangle.add_(at::ones_like(triangle).triu(1));
    expect_near("what stands above is not read", run(*mixer, x), y, 0.0);
  }
}

TEST(property, minimal_transformer_merging_queries_and_keys) {
  const c10::NoGradGuard no_grad;
  MixerCase what = layout_case("unchanged");
  what.heads = 1;
  const auto whole = what.make(), merged = layout_case("collapsed_qk").make();
  const auto p = whole->named_tensors(), m = merged->named_tensors();
  m.at("qk_proj.weight").copy_(collapsed_query_key(p.at("q_proj.weight"), p.at("k_proj.weight")));
  for (const char* name : {"v_proj.weight", "out_proj.weight"}) m.at(name).copy_(p.at(name));
  // With a residual connection and a norm between the layers too.
  Tensor x = random_tensor({2, 6, 12}, 8), z = x;
  for (int64_t layer = 0; layer < 3; ++layer) {
    x = x + run(*whole, at::layer_norm(x, {12}));
    z = z + run(*merged, at::layer_norm(z, {12}));
  }
  expect_near("merged", z, x, 1e-10);
  expect_refused([] { collapse_stack({}); }, "at least 1");
}

ModelOptions one_head(const TaskForm& task, const Table& options, int64_t heads = 1) {
  return tiny_options(task, [&](ModelOptions& o) {
    o.heads = heads;
    o.position.select("t5_relative", "test");
    o.every_layer.channel.select("none", "test");
    o.every_layer.mixer.select("minimal", "test");
    o.every_layer.mixer.set(options);
  });
}

TEST(property, minimal_transformer_models_collapse) {
  const c10::NoGradGuard no_grad;
  const TaskForm task = token_task("decoder");
  for (const char* layout : {"unchanged", "symmetric"}) {
    for (const bool bias : {false, true}) {
      const auto model =
          random_model(one_head(task, {{"attention_layout", Value(layout)}, {"bias", bias}}), task);
      const Converted converted = convert_model(*model, transform("collapse"));
      ModelInput input = random_input(*model, 3, 23);
      const Tensor expected = model->forward(input).y;
      expect_near(layout, converted.model->forward(input).y, expected,
                  1e-10 * expected.abs().max().item<double>());
      EXPECT_EQ(converted.model->named_tensors().count("layers.0.mixer.k_proj.weight"), 0u);
    }
  }
  const auto two = random_model(one_head(task, {}, 2), task);
  expect_error([&] { convert_model(*two, transform("collapse")); }, Fault::request,
               {"model.heads", "valid: 1"});
  const auto done = random_model(one_head(task, {{"attention_layout", "minimal"}}), task);
  expect_error([&] { convert_model(*done, transform("collapse")); }, Fault::request,
               {"attention_layout", "minimal"});
}

TEST(property, minimal_transformer_gradients) {
  for (const std::string& layout : layouts()) {
    const auto mixer = layout_case(layout, true, {{"bias", true}}).make();
    NamedLeaves leaves{{"x", random_leaf({2, 5, 12}, 9)}};
    for (const Parameter& parameter : mixer->parameters())
      leaves.emplace_back(parameter.name, parameter.tensor);
    expect_gradients(
        layout, [&] { return run(*mixer, leaves[0].second); }, leaves);
  }
}

TEST(property, minimal_transformer_decodes) {
  for (const std::string& layout : layouts()) {
    for (const char* position : {"none", "rotary", "alibi"}) {
      SCOPED_TRACE(layout + " " + position);
      MixerCase what = layout_case(layout, true);
      what.position = position;
      check_decoding(*what.make(), 12);
    }
  }
  MixerCase mirrored = layout_case("minimal_symmetric", true, {{"symmetric_factor", "mirrored"}});
  mirrored.position = "rotary";
  check_decoding(*mirrored.make(), 12);
}

TEST(property, minimal_transformer_cache_is_half) {
  const auto bytes = [](const char* layout) {
    return layout_case(layout, true).make()->make_state(3, 10, at::kFloat).bytes();
  };
  EXPECT_EQ(bytes("unchanged"), 3 * 10 * 12 * 4 * 2);
  EXPECT_EQ(bytes("minimal"), 3 * 10 * 12 * 4);
  expect_refused([] { layout_case("minimal").make()->make_state(1, 8, at::kFloat); }, "both ways");
}

TEST(property, minimal_transformer_refusals) {
  for (const std::string& layout : layouts()) {
    MixerCase what = layout_case(layout);
    what.heads = 4;
    if (many_heads(layout))
      what.make();
    else
      expect_refused([&] { what.make(); }, "collapsed layouts need one head");
  }
  expect_refused([] { layout_case("diagonal").make(); }, "attention_layout");
  MixerCase cross = layout_case("minimal");
  cross.cross = true;
  expect_refused([&] { cross.make(); }, "softmax");
}

}  // namespace
}  // namespace formwork::test

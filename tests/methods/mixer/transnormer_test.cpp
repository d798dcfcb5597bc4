// NormAttention, DiagAttention, their positions, norms and channels: specification transnormer.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "methods/channel/channel.h"
#include "support/dynamic.h"
#include "support/mixers.h"
#include "support/refusal.h"
#include "support/tiny_model.h"

namespace formwork::test {
namespace {

std::shared_ptr<Position> lrpe_of(int64_t head_width, const Table& options = {}) {
  PositionSite where;
  where.width = head_width;
  where.head_width = head_width;
  where.random = RandomStream(5);
  return Choice<Position>("lrpe").set(options).make(where);
}

/// A mixer and its position under the names of the reference files.
class Layer final : public Module {
 public:
  Layer(const GoldenCase& golden, const std::string& kind, const Table& options) {
    const int64_t width = golden.at("in.x").size(-1), heads = golden.option<int64_t>("H", 1);
    Site site = plain_site(width, heads, 11);
    site.causal = golden.option<bool>("causal", false);
    const Value mirror(golden.has("param.lrpe.v") ? "fixed" : "none");
    if (golden.option<bool>("lrpe", true))
      site.position =
          lrpe_of(golden.at("param.q_proj.weight").size(0) / heads, {{"householder", mirror}});
    mixer_ = add_module("", Choice<Mixer>(kind).set(options).make(site));
    add_module("lrpe", site.position);
    to(at::kDouble);
  }
  Mixer& mixer() { return *mixer_; }

 private:
  std::shared_ptr<Mixer> mixer_;
};

void load(Module& module, const std::map<std::string, Tensor>& values) {
  const c10::NoGradGuard no_grad;
  const auto own = module.named_tensors();
  ASSERT_EQ(own.size(), values.size());
  for (const auto& [name, value] : values) Tensor(own.at(name)).copy_(value);
}

void check_gradients(const GoldenCase& golden, Module& module, const Tensor& x, const Tensor& y) {
  expect_close("y", y, golden.at("out.y"));
  if (!golden.has("in.cotangent")) return;
  (y * golden.at("in.cotangent")).sum().backward();
  expect_close("x", x.grad(), golden.at("grad.in.x"));
  for (const Parameter& parameter : module.parameters())
    expect_close(parameter.name, parameter.tensor.grad(),
                 golden.at("grad.param." + parameter.name));
}

Table attention_options(const GoldenCase& golden, bool diagonal) {
  const Value eps(golden.option<double>("norm_eps", 1e-8));
  Table options{{"norm", Value(Table{{"kind", Value("simple_rms")}, {"eps", eps}})},
                {"qkv_dim", Value(golden.at("param.q_proj.weight").size(0))},
                {"bias", Value(golden.has("param.q_proj.bias"))}};
  const bool softmax = golden.option<bool>("softmax", true);
  const int64_t chunk = golden.option<int64_t>("chunk", 64);
  const bool tail = diagonal && softmax && !golden.option<bool>("causal", false) &&
                    golden.at("in.x").size(1) % chunk != 0;
  const bool released = golden.option<bool>("official_padding", tail || golden.has("in.pad_mask"));
  options.emplace_back("as_released", Value(released));
  options.emplace_back("chunk", Value(chunk));
  if (diagonal) {
    options.emplace_back("scores", Value(softmax ? "softmax" : "relu"));
  } else {
    const auto act = golden.option<std::string>("act", "1+elu");
    options.emplace_back("act", Value(act == "1+elu" ? "elu1" : act));
  }
  return options;
}

void check_mixer(const GoldenCase& golden, const std::string& kind) {
  Layer layer(golden, kind, attention_options(golden, kind == "diag_attention"));
  load(layer, golden.under("param."));
  const Tensor x = golden.at("in.x").clone().requires_grad_(true);
  const Tensor valid = golden.has("in.pad_mask") ? golden.at("in.pad_mask") > 0.5 : Tensor();
  check_gradients(golden, layer, x, run(layer.mixer(), x, valid));
}

/// The name that the gate's function has among ours; "swish" was no function in the released table.
std::string gate_of(const std::string& act) {
  const std::map<std::string, std::string> names{{"silu", "swiglu"},       {"gelu", "geglu"},
                                                 {"relu", "reglu"},        {"sigmoid", "glu"},
                                                 {"identity", "bilinear"}, {"swish", "bilinear"}};
  return names.at(act);
}

void check_glu(const GoldenCase& golden) {
  Site site = plain_site(golden.at("in.x").size(-1));
  const auto glu = Choice<Channel>("glu")
                       .set({{"gate", Value(gate_of(golden.option<std::string>("act", "silu")))},
                             {"hidden", Value(golden.at("param.gate.weight").size(0))},
                             {"bias", Value(golden.has("param.gate.bias"))}})
                       .make(site);
  glu->to(at::kDouble);
  load(*glu, golden.under("param."));
  const Tensor x = golden.at("in.x").clone().requires_grad_(true);
  Stream stream;
  check_gradients(golden, *glu, x, glu->forward(x, stream));
}

std::shared_ptr<Norm> norm_of(const std::string& kind, int64_t width, const Table& options = {}) {
  NormSite site;
  site.width = width;
  const auto norm = Choice<Norm>(kind).set(options).make(site);
  norm->to(at::kDouble);
  return norm;
}

TEST(golden, transnormer) {
  for (const GoldenCase& golden : golden_cases("transnormer")) {
    SCOPED_TRACE(golden.file);
    const std::string kind = golden.option<std::string>("kind", "norm");
    if (kind == "norm") {
      const Tensor x = golden.at("in.x").clone().requires_grad_(true);
      const auto norm =
          norm_of("simple_rms", x.size(-1), {{"eps", Value(golden.option<double>("eps", 1e-8))}});
      check_gradients(golden, *norm, x, norm->forward(x));
    } else if (kind == "glu") {
      check_glu(golden);
    } else {
      check_mixer(golden, kind);
    }
  }
}

/// q, k, v [B,H,N,K] of a mixer without positions.
Tensor heads_of(Mixer& mixer, const std::string& name, const Tensor& x, int64_t heads) {
  const auto p = mixer.named_tensors();
  return at::linear(x, p.at(name + "_proj.weight"), p.at(name + "_proj.bias"))
      .unflatten(2, {heads, -1})
      .transpose(1, 2);
}

Tensor through_output(Mixer& mixer, const Tensor& y) {
  const auto p = mixer.named_tensors();
  return at::linear(y, p.at("out_proj.weight"), p.at("out_proj.bias"));
}

Tensor simple_rms(const Tensor& x) {
  // Smooth at 0, where the root itself is not.
  return x / ((x.square().mean(-1, true) + 1e-300).sqrt() + 1e-8);
}

TEST(property, transnormer_norm_attention_equals_explicit_weights) {
  for (const char* act : {"elu1", "elu", "identity"}) {
    for (const bool causal : {false, true}) {
      for (const int64_t chunk : {1, 4, 13, 64}) {
        const MixerCase what{
            "norm_attention", {{"act", Value(act)}, {"chunk", Value(chunk)}}, causal};
        const auto mixer = what.make();
        const Tensor x = random_tensor({2, 13, 12}, 1).requires_grad_(true);
        for (const Tensor& valid : {Tensor(), random_tensor({2, 13}, 2) > -0.5}) {
          const auto f = [&](const Tensor& u) {
            if (act[0] == 'i') return u;
            return at::elu(u) + (act[3] == '1' ? 1.0 : 0.0);
          };
          Tensor weights = at::matmul(f(heads_of(*mixer, "q", x, 2)),
                                      f(heads_of(*mixer, "k", x, 2)).transpose(2, 3));
          if (causal) weights = weights.tril();
          if (valid.defined()) weights = weights * valid.unsqueeze(1).unsqueeze(2);
          const Tensor mixed = at::matmul(weights, heads_of(*mixer, "v", x, 2));
          const Tensor wanted =
              through_output(*mixer, simple_rms(mixed.transpose(1, 2).flatten(2)));
          const Tensor y = run(*mixer, x, valid);
          Tensor kept = at::ones({2, 13}, at::kBool);
          // A row that has seen no token is 0 before the norm, which is not smooth there.
          if (valid.defined())
            kept = causal ? valid.cumsum(1) > 0 : valid.any(1, true).expand({2, 13});
          expect_near("outputs", y.index({kept}), wanted.index({kept}), 1e-10);
          const Tensor g = random_tensor(y.sizes(), 3) * kept.unsqueeze(-1);
          const auto ours = torch::autograd::grad({(y * g).sum()}, {x});
          const auto theirs = torch::autograd::grad({(wanted * g).sum()}, {x});
          expect_near("gradients", ours[0], theirs[0], 1e-9);
        }
      }
    }
  }
}

TEST(property, transnormer_norm_attention_ignores_the_scale_of_values) {
  const c10::NoGradGuard no_grad;
  for (const bool causal : {false, true}) {
    const Value tiny(Table{{"kind", Value("simple_rms")}, {"eps", Value(1e-30)}});
    const auto mixer = MixerCase{"norm_attention", {{"norm", tiny}}, causal}.make();
    const Tensor x = random_tensor({2, 9, 12}, 4), y = run(*mixer, x);
    const auto p = mixer->named_tensors();
    p.at("v_proj.weight").mul_(7.0);
    p.at("v_proj.bias").mul_(7.0);
    expect_near("larger values", run(*mixer, x), y);
  }
}

TEST(property, transnormer_padding) {
  const c10::NoGradGuard no_grad;
  const Tensor x = random_tensor({2, 10, 12}, 5);
  const Tensor valid = lengths_mask({10, 6}, 10);
  const Tensor short_row = x[1].narrow(0, 0, 6).unsqueeze(0);
  for (const char* kind : {"norm_attention", "diag_attention"}) {
    for (const bool released : {false, true}) {
      const auto mixer =
          MixerCase{kind, {{"as_released", Value(released)}, {"chunk", Value(int64_t{8})}}, false}
              .make();
      const Tensor padded = run(*mixer, x, valid)[1].narrow(0, 0, 6);
      EXPECT_EQ(at::allclose(padded, run(*mixer, short_row)[0]), !released) << kind;
      EXPECT_EQ(at::equal(run(*mixer, x, valid), run(*mixer, x)), released) << kind;
    }
  }
}

TEST(property, transnormer_chunks_do_not_see_each_other) {
  const c10::NoGradGuard no_grad;
  for (const char* scores : {"softmax", "relu"}) {
    for (const bool causal : {false, true}) {
      const auto mixer =
          MixerCase{
              "diag_attention", {{"scores", Value(scores)}, {"chunk", Value(int64_t{4})}}, causal}
              .make();
      const Tensor x = random_tensor({1, 11, 12}, 6), y = run(*mixer, x);
      Tensor changed = x.clone();
      changed.narrow(1, 4, 4).add_(1.0);
      const Tensor z = run(*mixer, changed);
      expect_same_bits("before", z.narrow(1, 0, 4), y.narrow(1, 0, 4));
      expect_same_bits("after", z.narrow(1, 8, 3), y.narrow(1, 8, 3));
      EXPECT_FALSE(at::allclose(z.narrow(1, 4, 4), y.narrow(1, 4, 4)));
      // The last, shorter chunk alone is the same as in its row.
      expect_near("alone", run(*mixer, x.narrow(1, 8, 3)), y.narrow(1, 8, 3));
    }
  }
}

TEST(property, transnormer_one_chunk_is_plain_attention) {
  const c10::NoGradGuard no_grad;
  for (const bool causal : {false, true}) {
    const auto mixer = MixerCase{"diag_attention", {{"chunk", Value(int64_t{64})}}, causal}.make();
    const Tensor x = random_tensor({2, 11, 12}, 7);
    const Tensor plain =
        at::scaled_dot_product_attention(heads_of(*mixer, "q", x, 2), heads_of(*mixer, "k", x, 2),
                                         heads_of(*mixer, "v", x, 2), {}, 0.0, causal);
    expect_near("softmax", run(*mixer, x), through_output(*mixer, plain.transpose(1, 2).flatten(2)),
                1e-10);
  }
}

TEST(property, transnormer_diag_attention_with_relu_equals_its_definition) {
  for (const char* position : {"none", "alibi"}) {
    MixerCase what{
        "diag_attention", {{"scores", Value("relu")}, {"chunk", Value(int64_t{4})}}, true};
    what.position = position;
    const auto mixer = what.make();
    const Tensor x = random_tensor({2, 10, 12}, 8);
    const Tensor index = at::arange(10);
    Tensor scores =
        at::matmul(heads_of(*mixer, "q", x, 2), heads_of(*mixer, "k", x, 2).transpose(2, 3)) /
        std::sqrt(6.0);
    PositionSite where{.width = 12, .heads = 2, .head_width = 6};
    const Tensor bias = Choice<Position>(position).make(where)->bias(index, index, at::kDouble);
    if (bias.defined()) scores = scores + bias;
    const Tensor chunk = index.floor_divide(4);
    const Tensor weights = scores.relu().tril() * (chunk == chunk.unsqueeze(1));
    const Tensor mixed = at::matmul(weights, heads_of(*mixer, "v", x, 2));
    expect_near("relu", run(*mixer, x),
                through_output(*mixer, simple_rms(mixed.transpose(1, 2).flatten(2))), 1e-10);
  }
}

TEST(property, transnormer_refusals) {
  const auto refused = [](const char* kind, const Table& options, const char* key) {
    expect_refused([&] { MixerCase{kind, options}.make(); }, key);
  };
  refused("norm_attention", {{"chunk", Value(int64_t{0})}}, "chunk");
  refused("norm_attention", {{"act", Value("cosine")}}, "act");
  refused("diag_attention", {{"chunk", Value(int64_t{0})}}, "chunk");
  refused("diag_attention", {{"scores", Value("elu")}}, "scores");
  refused("diag_attention", {{"qkv_dim", Value(int64_t{9})}}, "qkv_dim");
  const TaskForm task = token_task("decoder");
  const ModelOptions biased = tiny_options(task, [](ModelOptions& o) {
    o.every_layer.mixer.select("norm_attention", "mixer");
    o.position.select("alibi", "position");
  });
  expect_error([&] { validate(biased, task); }, Fault::request,
               {"alibi", "norm_attention", "forms no pair scores"});
}

/// The paper's stack: diagonal attention below, norm attention above.
TEST(property, transnormer_layers) {
  const c10::NoGradGuard no_grad;
  const TaskForm task = token_task("decoder");
  ModelOptions options = tiny_options(task, [](ModelOptions& o) {
    o.depth = 4;
    o.every_layer.mixer.select("norm_attention", "mixer");
    o.every_layer.norm.select("simple_rms", "norm");
    o.position.select("lrpe", "position");
    LayerOverride below;
    below.at = {0, 1};
    below.mixer = Value(Table{{"kind", Value("diag_attention")}, {"chunk", Value(int64_t{4})}});
    o.overrides.push_back(below);
  });
  validate(options, task);
  Model model(options, task, 3);
  model.to(at::kDouble);
  model.eval();
  const auto names = model.named_tensors();
  EXPECT_EQ(names.count("position.theta") + names.count("layers.3.position.theta"), 2);
  const Tensor full = test::run(model, tiny_tokens());
  ModelState state = model.make_state(2, kLength);
  std::vector<Tensor> parts;
  ModelInput input;
  for (int64_t i = 0; i < kLength; ++i) {
    input.input = tiny_tokens().slice(1, i, i + 1);
    parts.push_back(model.forward(input, &state).y);
  }
  expect_near("token by token", at::cat(parts, 1), full, 1e-10);
}

/// property.decode_state.<mixer>: with every kind of position that each honours.
const TestSource transnormer_decoding([] {
  const Value three(int64_t{3}), relu("relu");
  const Value gated(Table{{"kind", Value("gated_rms")}});
  const std::vector<std::pair<std::string, MixerCase>> all{
      {"norm_attention", {"norm_attention", {{"chunk", Value(int64_t{4})}}}},
      {"norm_attention_elu", {"norm_attention", {{"act", Value("elu")}, {"norm", gated}}}},
      {"diag_attention", {"diag_attention", {{"chunk", three}}}},
      {"diag_attention_slack",
       {"diag_attention", {{"chunk", three}, {"slack", Value(int64_t{2})}}}},
      {"diag_attention_relu", {"diag_attention", {{"chunk", three}, {"scores", relu}}}},
  };
  for (const auto& [name, base] : all) {
    for (const char* position : {"none", "lrpe", "rotary", "alibi", "t5_relative"}) {
      const Position::Traits where = Choice<Position>(position).traits();
      if (where.biases && base.kind == "norm_attention") continue;
      MixerCase what = base;
      what.position = position;
      add_test("property.decode_state", name + "_" + position,
               [what] { check_decoding(*what.make(), what.width, 1e-11); });
    }
  }
});

}  // namespace
}  // namespace formwork::test

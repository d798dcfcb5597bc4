// Placements of norms against reference numbers and the properties of specification peri_ln.
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "model/stack.h"
#include "support/golden.h"

namespace formwork::test {
namespace {

/// Blocks on ready vectors, with the norms before and after that a placement wants.
class Tower final : public Module {
 public:
  Tower(const LayerOptions& options, const Site& base, int64_t layers, bool embed_norm,
        bool final_norm) {
    NormSite norm;
    norm.width = base.width;
    if (embed_norm) embed_norm_ = add_module("embed_norm", options.norm.make(norm));
    for (int64_t i = 0; i < layers; ++i) {
      Site site = base;
      site.layer = i;
      site.depth = layers;
      site.random = base.random.child(static_cast<uint64_t>(i));
      blocks_.push_back(
          add_module(join_text("layers.", i), std::make_shared<Block>(options, site, false)));
    }
    if (final_norm) final_norm_ = add_module("final_norm", options.norm.make(norm));
  }

  /// `seen` gets the stream at the start and after each sublayer.
  Tensor forward(const Tensor& x, const Tensor& valid, std::vector<Tensor>* seen = nullptr) {
    struct Watch final : Observer {
      std::vector<Tensor>* seen = nullptr;
      void see(const std::string& point, const Tensor& tensor) override {
        if (point.size() > 7 && point.substr(point.size() - 7) == ".stream")
          seen->push_back(tensor);
      }
    } watch;
    watch.seen = seen;
    Stream stream;
    stream.valid = valid;
    stream.x = embed_norm_ ? embed_norm_->forward(x, valid) : x;
    stream.positions = at::arange(x.size(1));
    if (seen) {
      seen->push_back(stream.x);
      stream.observer = &watch;
    }
    for (size_t i = 0; i < blocks_.size(); ++i)
      blocks_[i]->forward(stream, nullptr, join_text("layers.", i));
    return final_norm_ ? final_norm_->forward(stream.x, valid) : stream.x;
  }

 private:
  std::shared_ptr<Norm> embed_norm_, final_norm_;
  std::vector<std::shared_ptr<Block>> blocks_;
};

void load(Module& module, const std::map<std::string, Tensor>& values,
          const std::function<std::string(const std::string&)>& name_in_file) {
  const c10::NoGradGuard no_grad;
  module.to(at::kDouble);
  size_t used = 0;
  for (auto& [name, tensor] : module.named_tensors()) {
    const auto found = values.find(name_in_file(name));
    ASSERT_TRUE(found != values.end()) << name;
    Tensor(tensor).copy_(found->second);
    ++used;
  }
  EXPECT_EQ(used, values.size()) << "the file has parameters that the model lacks";
}

LayerOptions layer_options(const GoldenCase& golden) {
  LayerOptions options;
  const bool rms = golden.option<std::string>("norm", "rms") == "rms";
  options.norm = Choice<Norm>(rms ? "rms_norm" : "layer_norm");
  options.norm.set({{"eps", Value(golden.option<double>("eps", rms ? 1e-6 : 1e-5))}});
  options.mixer.set({{"bias", Value(golden.option<bool>("attn_bias", false))}});
  options.channel = Choice<Channel>("mlp");
  options.channel.set({{"hidden", Value(golden.option<int64_t>("F", 0))},
                       {"act", Value(golden.option<std::string>("act", "relu"))}});
  options.wiring = Choice<Wiring>(golden.option<std::string>("placement", "pre"));
  options.channel_wiring = options.wiring;
  return options;
}

void expect_diagnostics(const GoldenCase& golden, const std::vector<Tensor>& seen,
                        const Tensor& valid) {
  const Tensor states = at::stack(seen);
  expect_close("hidden_states", states, golden.at("out.hidden_states"));
  const Tensor weight = valid.defined() ? valid.to(at::kDouble)
                                        : at::ones({states.size(1), states.size(2)}, at::kDouble);
  const auto mean = [&](const Tensor& per_token) {
    return (per_token * weight).sum({1, 2}) / weight.sum();
  };
  expect_close("variance", mean(states.var({-1}, 0)), golden.at("out.token_variance_mean"));
  expect_close("rms", mean(states.square().mean(-1).sqrt()), golden.at("out.rms_mean"));
  expect_close("max_abs", (states.abs().amax(-1) * weight).amax({1, 2}), golden.at("out.max_abs"));
}

void check_placement(const GoldenCase& golden) {
  const int64_t width = golden.config.at("D").get<int64_t>();
  Site site = plain_site(width, golden.config.at("heads").get<int64_t>());
  site.causal = golden.option<bool>("causal", false);
  Tower tower(layer_options(golden), site, golden.config.at("L").get<int64_t>(),
              golden.option<bool>("embed_norm", false), golden.option<bool>("final_norm", false));
  load(tower, golden.under("param."), [](const std::string& name) { return name; });
  const Tensor valid =
      golden.has("in.pad_mask") ? golden.at("in.pad_mask").logical_not() : Tensor();
  const Tensor x = golden.at("in.x").clone().requires_grad_(true);
  std::vector<Tensor> seen;
  const Tensor y = tower.forward(x, valid, &seen);
  expect_close("y", y, golden.at("out.y"));
  expect_diagnostics(golden, seen, valid);
  (y * golden.at("in.cotangent")).sum().backward();
  expect_close("grad.in.x", x.grad(), golden.at("grad.in.x"));
  for (const Parameter& parameter : tower.parameters())
    expect_close(parameter.name, parameter.tensor.grad(),
                 golden.at("grad.param." + parameter.name));
}

/// Proposition 3.1: |dL/dW2| of peri against its bound and against pre, token by token.
void check_gradient_bound(const GoldenCase& golden, const std::string& norm,
                          const std::string& scale) {
  const auto in = [&](const std::string& name) {
    return golden.at("in." + norm + "." + scale + "." + name);
  };
  const auto out = [&](const std::string& name) {
    return golden.at("out." + norm + "." + scale + "." + name);
  };
  const std::map<std::string, Tensor> p = golden.under("param." + norm + ".");
  const double factor = std::stod(scale.substr(5));
  NormSite site;
  site.width = in("x").size(-1);
  Choice<Norm> input_norm("rms_norm");
  const std::shared_ptr<Norm> normed = input_norm.make(site);
  normed->to(at::kDouble);
  Tensor w2 = p.at("W2").clone().requires_grad_(true);
  std::vector<Tensor> peri, pre, bounds;
  for (int64_t t = 0; t < in("x").size(0); ++t) {
    const Tensor x = in("x").slice(0, t, t + 1);
    const Tensor hidden =
        (at::linear(normed->forward(x), p.at("W1"), p.at("b1")).relu() * factor).detach();
    const auto gradient = [&](bool with_norm) {
      Tensor a = at::linear(hidden, w2, p.at("b2"));
      if (with_norm) {
        if (norm == "ln") a = a - a.mean(-1, true);
        a = a / a.square().mean(-1, true).sqrt() * p.at("gamma");
      }
      w2.mutable_grad().reset();
      at::cross_entropy_loss(x + a, in("target").slice(0, t, t + 1)).backward();
      return w2.grad().abs().max();
    };
    peri.push_back(gradient(true));
    pre.push_back(gradient(false));
    Tensor a = at::linear(hidden, w2.detach(), p.at("b2"));
    if (norm == "ln") a = a - a.mean(-1, true);
    bounds.push_back(4.0 * p.at("gamma").abs().max() * std::sqrt(static_cast<double>(site.width)) *
                     hidden.norm() / a.norm());
  }
  expect_close("peri", at::stack(peri), out("peri_grad_max"));
  expect_close("pre", at::stack(pre), out("pre_grad_max"));
  expect_close("bound", at::stack(bounds), out("bound"));
  EXPECT_TRUE((at::stack(peri) <= at::stack(bounds)).all().item<bool>());
  if (factor >= 100) {
    EXPECT_GT(at::stack(pre).max().item<double>(), 10 * at::stack(peri).max().item<double>());
  }
}

TEST(golden, peri_ln) {
  for (const GoldenCase& golden : golden_cases("peri_ln")) {
    SCOPED_TRACE(golden.file);
    if (golden.config.contains("placement")) {
      check_placement(golden);
      continue;
    }
    for (const char* norm : {"rms", "ln"})
      for (const char* scale : {"scale1", "scale100"})
        if (golden.has(std::string("in.") + norm + "." + scale + ".x"))
          check_gradient_bound(golden, norm, scale);
  }
}

/// A block of Long Range Arena's code: Pre-LN, narrow queries, tanh-GELU.
TEST(golden, lra_tasks_vanilla_block) {
  for (const GoldenCase& golden : golden_cases("lra_tasks")) {
    if (!golden.has("param.q_proj.weight") || !golden.has("param.norm1.weight")) continue;
    SCOPED_TRACE(golden.file);
    LayerOptions options;
    options.norm = Choice<Norm>("layer_norm");
    options.norm.set({{"eps", Value(golden.option<double>("ln_eps", 1e-6))}});
    options.mixer.set({{"qkv_dim", Value(golden.config.at("qkv_dim").get<int64_t>())}});
    options.channel.set(
        {{"hidden", Value(golden.at("param.ffn.up.weight").size(0))}, {"act", Value("gelu_tanh")}});
    const Tensor x = golden.at("in.x").clone().requires_grad_(true);
    Tower tower(options, plain_site(x.size(2), golden.config.at("heads").get<int64_t>()), 1, false,
                false);
    const auto in_file = [](std::string name) {
      name = name.substr(std::string("layers.0.").size());
      if (name.rfind("attn.norm_in", 0) == 0) return "norm1" + name.substr(12);
      if (name.rfind("ffn.norm_in", 0) == 0) return "norm2" + name.substr(11);
      return name;
    };
    load(tower, golden.under("param."), in_file);
    const Tensor valid = golden.at("in.pad_mask").to(at::kBool);
    const Tensor y = tower.forward(x, valid) * golden.at("in.pad_mask").unsqueeze(-1);
    expect_close("y", y, golden.at("out.y"));
    (y * golden.at("in.cotangent")).sum().backward();
    expect_close("grad.in.x", x.grad(), golden.at("grad.in.x"));
    for (const Parameter& parameter : tower.parameters())
      expect_close(parameter.name, parameter.tensor.grad(),
                   golden.at("grad.param." + in_file(parameter.name)));
  }
}

Tensor through(const char* wiring, const char* norm, const std::function<void(Module&)>& change,
               double branch_scale = 1.0, const Table& norm_options = {}) {
  Site site = plain_site(8);
  site.make_norm = [&](int64_t width) {
    NormSite where;
    where.width = width;
    return Choice<Norm>(norm).set(norm_options).make(where);
  };
  const std::shared_ptr<Wiring> made = Choice<Wiring>(wiring).make(site);
  made->to(at::kDouble);
  change(*made);
  const Tensor weight = normal_tensor({8, 8}, 1.0, RandomStream(2)).to(at::kDouble) * branch_scale;
  Stream stream;
  stream.x = normal_tensor({2, 3, 8}, 1.0, RandomStream(3)).to(at::kDouble);
  stream.layer_input = stream.x;
  made->forward(stream, [&](const Tensor& x) { return at::linear(x, weight); });
  return stream.x;
}

void keep(Module&) {}

TEST(property, peri_ln_ignores_the_scale_of_a_branch) {
  const Table exact{{"eps", Value(1e-30)}};
  expect_close("peri", through("peri", "rms_norm", keep, 7.0, exact),
               through("peri", "rms_norm", keep, 1.0, exact));
  EXPECT_FALSE(at::allclose(through("pre", "rms_norm", keep, 7.0, exact),
                            through("pre", "rms_norm", keep, 1.0, exact)));
}

TEST(property, peri_ln_without_gamma_is_the_identity) {
  const c10::NoGradGuard no_grad;
  const Tensor y = through("peri", "rms_norm", [](Module& wiring) {
    for (Parameter& p : wiring.parameters())
      if (p.name == "norm_out.weight") p.tensor.zero_();
  });
  EXPECT_TRUE(at::equal(y, normal_tensor({2, 3, 8}, 1.0, RandomStream(3)).to(at::kDouble)));
}

TEST(property, peri_ln_post_has_rms_one) {
  const Tensor y = through("post", "rms_norm", keep, 1.0, {{"eps", Value(1e-30)}});
  expect_close("rms", y.square().mean(-1), at::ones({2, 3}, at::kDouble));
}

TEST(property, peri_ln_none_is_pre_without_norms) {
  EXPECT_TRUE(at::equal(through("none", "none", keep), through("pre", "none", keep)));
  EXPECT_TRUE(at::equal(through("b2t", "rms_norm", keep), through("post", "rms_norm", keep)))
      << "b2t before the last sublayer is post";
}

TEST(property, breaking_symmetry_no_residual_is_pre_without_its_addition) {
  const Tensor x = normal_tensor({2, 3, 8}, 1.0, RandomStream(3)).to(at::kDouble);
  expect_close("branch", through("no_residual", "rms_norm", keep) + x,
               through("pre", "rms_norm", keep));
  EXPECT_TRUE(at::equal(through("no_residual", "none", keep, 0.0), at::zeros_like(x)));
}

TEST(property, peri_ln_stream_grows_at_most_linearly) {
  for (const double scale : {1.0, 1e3}) {
    const Tensor y = through("output", "rms_norm", keep, scale);
    const Tensor x = normal_tensor({2, 3, 8}, 1.0, RandomStream(3)).to(at::kDouble);
    const auto rms = [](const Tensor& t) { return t.square().mean(-1).sqrt(); };
    EXPECT_TRUE((rms(y) <= rms(x) + 1.0 + 1e-12).all().item<bool>()) << scale;
  }
}

}  // namespace
}  // namespace formwork::test

// What conversions promise: the same outputs, streams of mean 0, and refusals that name the part.
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "support/conversion.h"
#include "support/golden.h"
#include "support/refusal.h"

namespace formwork::test {
namespace {

ModelOptions pre_ln(const TaskForm& task, const std::function<void(ModelOptions&)>& change) {
  return tiny_options(task, [&](ModelOptions& o) {
    o.every_layer.norm.select("layer_norm", "test");
    o.position.select("learned", "test");
    change(o);
  });
}

/// An option of a choice, where it is not the default.
template <class Axis>
void choose(Choice<Axis>& choice, const std::string& kind, const Table& options = {}) {
  choice.select(kind, "test");
  choice.set(options);
}

struct Variant {
  const char* name;
  std::function<void(ModelOptions&)> change;
  bool narrows = true;  // pre_crms can convert it
};

const std::vector<Variant>& variants() {
  static const std::vector<Variant> all{
      {"plain", [](ModelOptions&) {}},
      {"tied", [](ModelOptions& o) { o.head.tied = true; }},
      {"no affine",
       [](ModelOptions& o) {
         choose(o.every_layer.norm, "layer_norm", {{"affine", false}});
       }},
      {"gain without shift",
       [](ModelOptions& o) {
         choose(o.every_layer.norm, "layer_norm", {{"bias", false}});
       }},
      {"grouped heads, gated channel",
       [](ModelOptions& o) {
         choose(o.every_layer.mixer, "softmax", {{"kv_heads", int64_t{1}}, {"qk_norm", true}});
         choose(o.every_layer.channel, "glu", {{"ratio", 2.0}, {"multiple_of", int64_t{4}}});
       }},
      {"rotary", [](ModelOptions& o) { o.position.select("rotary", "test"); }},
      {"alibi", [](ModelOptions& o) { o.position.select("alibi", "test"); }},
      {"looped", [](ModelOptions& o) { o.depth_plan.select("looped", "test"); }},
      {"no channel", [](ModelOptions& o) { o.every_layer.channel.select("none", "test"); }},
      {"scaled embedding",
       [](ModelOptions& o) {
         choose(o.stem, "token", {{"scale", true}});
       }},
      {"layer scale",
       [](ModelOptions& o) {
         choose(o.every_layer.wiring, "pre", {{"layer_scale", 0.1}});
         choose(o.every_layer.channel_wiring, "pre", {{"layer_scale", 0.1}});
       }},
      {"layers differ",
       [](ModelOptions& o) {
         LayerOverride& second = o.overrides.emplace_back();
         second.at = {1};
         second.mixer = Value(Table{{"kind", "local"}, {"mode", "sliding"}});
         second.norm = Value(Table{{"kind", "layer_norm"}, {"eps", 1e-3}});
         second.channel = Value(Table{{"kind", "mlp"}, {"ratio", 2.0}});
       }},
      {"sinusoidal", [](ModelOptions& o) { o.position.select("sinusoidal", "test"); }, false},
  };
  return all;
}

double greatest(const Tensor& x) {
  return x.abs().max().item<double>();
}

/// The means of the stream after the embedding and each sublayer.
struct Means final : Observer {
  std::vector<double> seen;
  void see(const std::string& point, const Tensor& tensor) override {
    if (point.ends_with(".stream") || point == "stem.output")
      seen.push_back(greatest(tensor.mean(-1)) / greatest(tensor));
  }
};

void expect_equal(const std::string& name, Model& before, Model& after) {
  const c10::NoGradGuard no_grad;
  ModelInput input = random_input(before, 3, 23);
  const Tensor expected = before.forward(input).y;
  EXPECT_LT(greatest(after.forward(input).y - expected), 1e-10 * greatest(expected)) << name;
}

void expect_mean_free(const std::string& name, Model& model) {
  const c10::NoGradGuard no_grad;
  Means means;
  ModelInput input = random_input(model, 2, 29);
  input.observer = &means;
  model.forward(input);
  EXPECT_GT(means.seen.size(), 2u);
  for (const double mean : means.seen) EXPECT_LT(mean, 1e-12) << name;
}

TEST(property, pre_rmsnorm_conversions_keep_outputs) {
  for (const char* form : {"decoder", "encoder"}) {
    const TaskForm task = token_task(form);
    for (const Variant& variant : variants()) {
      const std::string name = join_text(form, ", ", variant.name);
      const auto model = random_model(pre_ln(task, variant.change), task);
      const Converted rms = convert_model(*model, transform("pre_rms"));
      expect_equal(name, *model, *rms.model);
      expect_mean_free(name, *rms.model);
      const Converted folded =
          convert_model(*model, transform("pre_rms", {{"fold_affine", "always"}}));
      expect_equal(name + ", folded", *model, *folded.model);
      for (const char* storage : {"padded", "exact"}) {
        const Choice<Transform> crms = transform("pre_crms", {{"storage", storage}});
        if (!variant.narrows) {
          expect_error([&] { convert_model(*model, crms); }, Fault::request, {"sinusoidal"});
          continue;
        }
        expect_equal(name + ", crms " + storage, *model, *convert_model(*model, crms).model);
      }
    }
  }
}

TEST(property, pre_rmsnorm_keeps_a_tied_head) {
  const TaskForm task = token_task("decoder");
  const auto model = random_model(pre_ln(task, [](ModelOptions& o) { o.head.tied = true; }), task);
  const Converted kept =
      convert_model(*model, transform("pre_rms", {{"tied", "runtime_recentre"}}));
  EXPECT_EQ(kept.model->parameter_count(), model->parameter_count());
  expect_equal("tied", *model, *kept.model);
  expect_mean_free("tied", *kept.model);
  expect_error(
      [&] {
        convert_model(*model, transform("pre_rms",
                                        {{"tied", "runtime_recentre"}, {"fold_affine", "always"}}));
      },
      Fault::request, {"transform.fold_affine", "untie"});
}

TEST(property, pre_rmsnorm_converts_encoder_and_decoder) {
  TaskForm task = token_task("encoder_decoder");
  task.source = task.input;
  const auto model = random_model(pre_ln(task, [](ModelOptions&) {}), task);
  for (const char* kind : {"pre_rms", "pre_crms"})
    expect_equal(kind, *model, *convert_model(*model, transform(kind)).model);
}

TEST(property, pre_rmsnorm_is_idempotent) {
  const TaskForm task = token_task("decoder");
  const ModelOptions options = pre_ln(task, [](ModelOptions&) {});
  const auto model = random_model(options, task);
  const Converted once = convert_model(*model, transform("pre_rms"));
  const auto centred = build_model(options, task, once.model->named_tensors(), at::kDouble, "test");
  const Converted twice = convert_model(*centred, transform("pre_rms"));
  for (const auto& [name, tensor] : twice.model->named_tensors())
    EXPECT_LT(greatest(tensor - once.model->named_tensors().at(name)), 1e-14) << name;
}

TEST(property, pre_rmsnorm_counts_one_channel_less) {
  const TaskForm task = token_task("decoder");
  const auto model =
      random_model(pre_ln(task,
                          [](ModelOptions& o) {
                            choose(o.every_layer.norm, "layer_norm", {{"affine", false}});
                            choose(o.every_layer.mixer, "softmax", {{"bias", true}});
                          }),
                   task);
  const Converted narrow = convert_model(*model, transform("pre_crms", {{"storage", "exact"}}));
  const int64_t d = 16, f = 64, v = kVocabulary, n = kLength, layers = 2;
  const int64_t lost = v + n + v + layers * (4 * d + 2 * f + 2);
  EXPECT_EQ(narrow.model->parameter_count(), model->parameter_count() - lost);
  EXPECT_EQ(narrow.model->options().width, d - 1);
}

TEST(property, pre_rmsnorm_zero_rows_stay_zero) {
  for (const char* kind : {"layer_norm", "rms_norm", "crms_norm"}) {
    NormSite site;
    site.width = 7;
    const auto norm = Choice<Norm>(kind).make(site);
    EXPECT_EQ(greatest(norm->forward(at::zeros({2, 7}))), 0.0) << kind;
  }
}

// ---- training -----------------------------------------------------------------------------------

/// One step's loss and gradients on fixed tokens.
double loss_of(Model& model, const Tensor& ids) {
  for (const Parameter& parameter : model.parameters()) parameter.tensor.mutable_grad().reset();
  const Tensor logits = run(model, ids).flatten(0, 1);
  const Tensor loss = at::cross_entropy_loss(logits, ids.roll(-1, 1).flatten());
  loss.backward();
  return loss.item<double>();
}

/// The model that trains in zero-mean form from the same weights.
std::shared_ptr<Model> zero_mean_form(const Model& model) {
  ModelOptions options = model.options();
  options.linear.select("zero_mean", "test");
  options.centre_embedding = true;
  choose(options.every_layer.norm, "rms_norm", {{"eps", 1e-5}, {"bias", true}});
  return build_model(options, model.task(), model.named_tensors(), at::kDouble, "test");
}

TEST(property, pre_rmsnorm_trains_alike) {
  const TaskForm task = token_task("decoder");
  const auto plain = random_model(pre_ln(task, [](ModelOptions& o) { o.head.tied = true; }), task);
  const auto zero_mean = zero_mean_form(*plain);
  for (int step = 0; step < 20; ++step) {
    const Tensor ids = tiny_tokens(static_cast<uint64_t>(step));
    EXPECT_NEAR(loss_of(*plain, ids), loss_of(*zero_mean, ids), 1e-9) << step;
    const auto theirs = zero_mean->named_tensors();
    for (const Parameter& parameter : plain->parameters()) {
      const Tensor gradient = parameter.tensor.grad();
      EXPECT_LT(greatest(gradient - theirs.at(parameter.name).grad()), 1e-10) << parameter.name;
      if (parameter.role == Role::output || parameter.role == Role::down) {
        EXPECT_LT(greatest(gradient.mean(0)), 1e-12) << parameter.name;
      }
    }
    const c10::NoGradGuard no_grad;
    for (const auto& model : {plain, zero_mean})
      for (const Parameter& parameter : model->parameters())
        Tensor(parameter.tensor).sub_(parameter.tensor.grad(), 0.05);
  }
}

// ---- refusals -----------------------------------------------------------------------------------

void expect_refusal(const std::function<void(ModelOptions&)>& change, const char* kind,
                    std::initializer_list<std::string> words) {
  const TaskForm task = token_task("decoder");
  const auto model = random_model(pre_ln(task, change), task);
  expect_error([&] { convert_model(*model, transform(kind)); }, Fault::request, words);
}

TEST(property, pre_rmsnorm_refuses_what_is_not_pre_ln) {
  expect_refusal(
      [](ModelOptions& o) {
        o.every_layer.wiring.select("post", "test");
        o.every_layer.channel_wiring.select("post", "test");
      },
      "pre_rms", {"model.wiring.kind", "post", "pre"});
  expect_refusal([](ModelOptions& o) { o.every_layer.norm.select("rms_norm", "test"); }, "pre_crms",
                 {"model.norm.kind", "rms_norm", "layer_norm"});
  expect_refusal([](ModelOptions& o) { o.embed_norm = "on"; }, "pre_rms", {"embed_norm"});
  expect_refusal([](ModelOptions& o) { o.linear.select("zero_mean", "test"); }, "pre_rms",
                 {"out_proj", "fold"});
}

// ---- folding ------------------------------------------------------------------------------------

TEST(property, fold_keeps_outputs) {
  for (const char* form : {"decoder", "encoder"}) {
    const TaskForm task = token_task(form);
    for (const bool tied : {false, true}) {
      const ModelOptions options = pre_ln(task, [&](ModelOptions& o) {
        o.every_layer.norm.select("batch_norm", "test");
        o.linear.select("zero_mean", "test");
        o.head.tied = tied;
      });
      const auto model = random_model(options, task);
      const Converted folded = convert_model(*model, transform("fold"));
      expect_equal(form, *model, *folded.model);
      for (const auto& [name, tensor] : folded.model->named_tensors())
        EXPECT_EQ(name.find("norm"), std::string::npos) << name;
    }
  }
}

TEST(property, fold_takes_every_frozen_norm) {
  const TaskForm task = token_task("encoder");
  for (const std::string& kind : Registry<Norm>::instance().names()) {
    NormSite site;
    site.width = 16;
    const auto norm = Choice<Norm>(kind).make(site);
    norm->eval();
    if (!norm->folded()) continue;
    const auto model = random_model(
        pre_ln(task, [&](ModelOptions& o) { o.every_layer.norm.select(kind, "test"); }), task);
    expect_equal(kind, *model, *convert_model(*model, transform("fold")).model);
  }
}

TEST(property, fold_takes_every_linear_map_that_is_more_than_a_matrix) {
  const TaskForm task = token_task("decoder");
  for (const std::string& kind : Registry<Linear>::instance().names()) {
    const auto model =
        random_model(pre_ln(task, [&](ModelOptions& o) { o.linear.select(kind, "test"); }), task);
    try {
      const Converted folded = convert_model(*model, transform("fold"));
      expect_equal(kind, *model, *folded.model);
      EXPECT_EQ(folded.model->options().linear.kind(), "dense");
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("nothing to fold"), std::string::npos) << kind;
    }
  }
}

TEST(property, fold_refuses_where_there_is_nothing_to_fold) {
  expect_refusal([](ModelOptions&) {}, "fold", {"--transform fold", "nothing to fold"});
  expect_refusal(
      [](ModelOptions& o) {
        o.every_layer.norm.select("batch_norm", "test");
        o.every_layer.wiring.select("post", "test");
        o.every_layer.channel_wiring.select("post", "test");
      },
      "fold", {"model.wiring.kind", "post"});
}

}  // namespace
}  // namespace formwork::test

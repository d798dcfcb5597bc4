// Every reference number of the conversions: which case it is follows from its tensors.
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "formats/json.h"
#include "support/conversion.h"
#include "support/golden.h"
#include "support/temporary_folder.h"

namespace formwork::test {
namespace {

Tensor last_chunk(const Tensor& x, int64_t i) {
  return x.chunk(3, 0)[static_cast<size_t>(i)].contiguous();
}

std::string activation_of(const GoldenCase& golden) {
  const auto name = golden.option<std::string>("act", "gelu");
  return name == "gelu_erf" ? "gelu" : name;
}

void expect_tensors(const std::string& where, const TensorMap& actual,
                    const std::map<std::string, Tensor>& expected) {
  for (const auto& [name, tensor] : expected) {
    const auto found = actual.find(name);
    ASSERT_NE(found, actual.end()) << where << " " << name;
    expect_close(where + " " + name, found->second, tensor);
  }
}

// ---- the ViT of the official example: a bare table of patches, no affine norms ----------------

TaskForm vit_task(const GoldenCase& golden) {
  TaskForm task;
  task.form = "encoder";
  task.input.kind = InputForm::Kind::series;
  task.input.channels = golden.option<int64_t>("patch_dim", 0);
  task.input.length = golden.option<int64_t>("num_patches", 0);
  task.output.kind = OutputForm::Kind::classes;
  task.output.size = golden.option<int64_t>("classes", 0);
  return task;
}

Value vit_options(const GoldenCase& golden) {
  Value options{Table{}};
  options["form"] = Value("encoder");
  options["width"] = Value(golden.option<int64_t>("D", 0));
  options["depth"] = Value(golden.option<int64_t>("L", 0));
  options["heads"] = Value(golden.option<int64_t>("heads", 0));
  options["stem"] = Value(Table{{"kind", "series"}});
  options["position"] = Value(Table{{"kind", "learned"}});
  options["norm"] = Value(Table{{"kind", "layer_norm"},
                                {"eps", golden.option("eps", 1e-5)},
                                {"affine", golden.option("norm_affine", false)}});
  const bool bias = golden.has("param.pre_ln.layers.0.qkv_proj.bias");
  options["mixer"] = Value(Table{{"kind", "softmax"}, {"bias", bias}});
  options["channel"] = Value(Table{
      {"kind", "mlp"}, {"act", activation_of(golden)}, {"hidden", golden.option<int64_t>("F", 0)}});
  return options;
}

/// From the names of the case to ours.
TensorMap vit_tensors(const std::map<std::string, Tensor>& named) {
  TensorMap tensors;
  for (const auto& [name, tensor] : named) {
    const size_t qkv = name.find("qkv_proj");
    if (name == "cls_token") {
      tensors["cls"] = tensor.reshape({-1});
    } else if (name == "pos_embed") {
      tensors["position.weight"] = at::cat({at::zeros_like(tensor[0].slice(0, 0, 1)), tensor[0]});
    } else if (name.rfind("patch.", 0) == 0) {
      tensors["stem.projection." + name.substr(6)] = tensor;
    } else if (qkv != std::string::npos) {
      for (int64_t i = 0; i < 3; ++i)
        tensors[std::string(name).replace(qkv, 3, std::string(1, "qkv"[i]))] =
            last_chunk(tensor, i);
    } else {
      tensors[name] = tensor;
    }
  }
  return tensors;
}

void check_vit(const GoldenCase& golden) {
  const TaskForm task = vit_task(golden);
  const ModelOptions options = options_from(vit_options(golden), task);
  const auto model = build_model(options, task, vit_tensors(golden.under("param.pre_ln.")),
                                 at::kDouble, golden.file);
  ModelInput input;
  input.input = golden.at("in.patches");
  const Tensor y = model->forward(input).y;
  expect_close(golden.file + " pre_ln", y, golden.at("out.pre_ln.y"));
  (y * golden.at("in.cotangent")).sum().backward();
  TensorMap gradients;
  for (const Parameter& parameter : model->parameters())
    gradients[parameter.name] = parameter.tensor.grad();
  gradients["position.weight"][0].zero_();  // the class token of the case has no position
  expect_tensors(golden.file + " gradient", gradients,
                 vit_tensors(golden.under("grad.param.pre_ln.")));
  for (const auto& [kind, choice] :
       {std::pair("pre_rms", transform("pre_rms")),
        std::pair("pre_crms", transform("pre_crms", {{"storage", "exact"}}))}) {
    const std::string prefix = "param." + std::string(kind) + ".";
    if (golden.under(prefix).empty()) continue;
    const Converted converted = convert_model(*model, choice);
    const c10::NoGradGuard no_grad;
    expect_tensors(golden.file + " " + kind, converted.model->named_tensors(),
                   vit_tensors(golden.under(prefix)));
    expect_close(golden.file + " " + kind, converted.model->forward(input).y,
                 golden.at("out." + std::string(kind) + ".y"));
  }
}

// ---- Hugging Face folders ---------------------------------------------------------------------

/// Writes config.json and the tensors param.pre_ln.* as a folder, converts it, and returns the
/// tensors of the converted folder by their names there.
struct FolderCase {
  TemporaryFolder folder;
  SourceModel source;

  FolderCase(const GoldenCase& golden, const nlohmann::json& config) {
    folder.write("before/config.json", config.dump());
    save_tensors(folder.file("before/model.safetensors"), golden.under("param.pre_ln."));
    source = open_model(folder.file("before"));
  }
  TensorMap convert(const std::string& kind, Model** model) {
    converted_ = convert_model(*source.model, transform(kind));
    *model = converted_.model.get();
    save_converted(source, converted_, kind, folder.file(kind));
    return load_tensors(folder.file(kind + "/model.safetensors"));
  }

 private:
  Converted converted_;
};

/// Our names to the case's: [in,out] weights, q, k and v side by side.
TensorMap gpt2_names(const TensorMap& tensors, int64_t depth) {
  TensorMap named{{"wte.weight", tensors.at("stem.weight")},
                  {"wpe.weight", tensors.at("position.weight")},
                  {"lm_head.weight", tensors.at("head.weight")},
                  {"lm_head.bias", tensors.at("head.bias")}};
  for (int64_t i = 0; i < depth; ++i) {
    const std::string ours = join_text("layers.", i, "."), theirs = join_text("h.", i, ".");
    const auto both = [&](const std::string& name, const std::vector<std::string>& parts) {
      std::vector<Tensor> weights, biases;
      for (const std::string& part : parts) {
        weights.push_back(tensors.at(ours + part + ".weight").t());
        biases.push_back(tensors.at(ours + part + ".bias"));
      }
      named[theirs + name + ".weight"] = at::cat(weights, 1);
      named[theirs + name + ".bias"] = at::cat(biases, 0);
    };
    both("attn.c_attn", {"q_proj", "k_proj", "v_proj"});
    both("attn.c_proj", {"out_proj"});
    both("mlp.c_fc", {"ffn.up"});
    both("mlp.c_proj", {"ffn.down"});
  }
  return named;
}

void check_gpt2(const GoldenCase& golden) {
  const auto act = activation_of(golden);
  nlohmann::json config{{"architectures", nlohmann::json::array({"GPT2LMHeadModel"})},
                        {"model_type", "gpt2"},
                        {"vocab_size", golden.config.at("V")},
                        {"n_positions", golden.config.at("n_positions")},
                        {"n_embd", golden.config.at("D")},
                        {"n_layer", golden.config.at("L")},
                        {"n_head", golden.config.at("heads")},
                        {"layer_norm_epsilon", golden.option("eps", 1e-5)},
                        {"activation_function", act == "gelu_tanh" ? "gelu_new" : act},
                        {"tie_word_embeddings", golden.option("tied_in_source", true)}};
  config["n_inner"] = golden.at("param.pre_ln.transformer.h.0.mlp.c_fc.weight").size(1);
  const c10::NoGradGuard no_grad;
  FolderCase here(golden, config);
  ModelInput input;
  input.input = golden.at("in.ids");
  expect_close(golden.file + " pre_ln", here.source.model->forward(input).y,
               golden.at("out.pre_ln.logits"));
  Model* model = nullptr;
  TensorMap rms;
  for (const auto& [name, tensor] : here.convert("pre_rms", &model))
    rms[name.rfind("transformer.", 0) == 0 ? name.substr(12) : name] = tensor;
  expect_tensors(golden.file + " pre_rms", rms, golden.under("param.pre_rms."));
  expect_close(golden.file + " pre_rms", model->forward(input).y, golden.at("out.pre_rms.logits"));
  const Converted crms =
      convert_model(*here.source.model, transform("pre_crms", {{"storage", "exact"}}));
  expect_tensors(golden.file + " pre_crms",
                 gpt2_names(crms.model->named_tensors(), golden.option<int64_t>("L", 0)),
                 golden.under("param.pre_crms."));
  expect_close(golden.file + " pre_crms", crms.model->forward(input).y,
               golden.at("out.pre_crms.logits"));
}

void check_vit_folder(const GoldenCase& golden) {
  nlohmann::json config{{"architectures", nlohmann::json::array({"ViTForImageClassification"})},
                        {"model_type", "vit"},
                        {"image_size", golden.config.at("image")},
                        {"patch_size", golden.config.at("patch")},
                        {"num_channels", golden.at("in.pixel_values").size(1)},
                        {"hidden_size", golden.config.at("D")},
                        {"num_hidden_layers", golden.config.at("L")},
                        {"num_attention_heads", golden.config.at("heads")},
                        {"intermediate_size", golden.config.at("F")},
                        {"num_labels", golden.config.at("classes")},
                        {"layer_norm_eps", golden.option("eps", 1e-12)},
                        {"hidden_act", activation_of(golden) == "gelu_tanh" ? "gelu_new" : "gelu"}};
  config["qkv_bias"] =
      golden.has("param.pre_ln.vit.encoder.layer.0.attention.attention.query.bias");
  const c10::NoGradGuard no_grad;
  FolderCase here(golden, config);
  ModelInput input;
  input.input = golden.at("in.pixel_values");
  expect_close(golden.file + " pre_ln", here.source.model->forward(input).y,
               golden.at("out.pre_ln.logits"));
  Model* model = nullptr;
  const TensorMap saved = here.convert("pre_rms", &model);
  auto expected = golden.under("param.pre_ln.");
  for (const auto& [name, tensor] : golden.under("param.pre_rms.")) expected[name] = tensor;
  expect_tensors(golden.file + " pre_rms", saved, expected);
  EXPECT_EQ(saved.size(), expected.size());
  expect_close(golden.file + " pre_rms", model->forward(input).y, golden.at("out.pre_rms.logits"));
}

TEST(golden, pre_rmsnorm) {
  for (const GoldenCase& golden : golden_cases("pre_rmsnorm")) {
    if (golden.has("in.ids"))
      check_gpt2(golden);
    else if (golden.has("in.pixel_values"))
      check_vit_folder(golden);
    else if (golden.has("in.patches"))
      check_vit(golden);
    else if (golden.under("in.").count("ln.x") + golden.under("in.").count("rms.x") +
                 golden.under("in.").count("crms.x") ==
             0)  // the norms have their own test
      ADD_FAILURE() << golden.file << " is of a kind that no test knows";
  }
}

}  // namespace
}  // namespace formwork::test

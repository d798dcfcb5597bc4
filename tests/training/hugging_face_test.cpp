// Folders in Hugging Face's layout: what they compute, how they are written, what is refused.
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "formats/json.h"
#include "support/conversion.h"
#include "support/golden.h"
#include "support/refusal.h"
#include "support/temporary_folder.h"

namespace formwork::test {
namespace {

std::string folder_of(const std::string& name) {
  return golden_root() + "/hf_models/" + name;
}

/// A copy of a golden folder that a test may spoil.
std::string copy_of(const std::string& name, const TemporaryFolder& place) {
  const std::string to = place.file("copy-" + name);
  std::filesystem::remove_all(to);
  std::filesystem::create_directories(to);
  for (const char* file : {"config.json", "model.safetensors"})
    write_bytes(to + "/" + file, read_bytes(folder_of(name) + "/" + file));
  return to;
}

Tensor logits(Model& model, const Tensor& in) {
  const c10::NoGradGuard no_grad;
  ModelInput input;
  input.input = in;
  return model.forward(input).y;
}

struct FolderGolden {
  const char* name;
  const char* input;
};
constexpr FolderGolden kFolders[] = {{"gpt2_lm", "in.input_ids"},
                                     {"vit_classifier", "in.pixel_values"}};

TEST(golden, hugging_face_logits) {
  for (const auto& [name, input] : kFolders) {
    const TensorMap io = load_tensors(folder_of(name) + "/io.safetensors");
    const SourceModel source = open_model(folder_of(name));
    expect_close(name, logits(*source.model, io.at(input)), io.at("out.logits"));
    for (const char* kind : {"pre_rms", "pre_crms"})
      expect_close(join_text(name, " ", kind),
                   logits(*convert_model(*source.model, transform(kind)).model, io.at(input)),
                   io.at("out.logits"));
  }
}

/// The likeliest token after each prefix, through the state that decodes token by token.
TEST(golden, hugging_face_greedy) {
  const c10::NoGradGuard no_grad;
  const TensorMap io = load_tensors(folder_of("gpt2_lm") + "/io.safetensors");
  const SourceModel source = open_model(folder_of("gpt2_lm"));
  const Tensor expected = io.at("out.greedy");
  const int64_t prompt = io.at("in.input_ids").size(1);
  ModelState state = source.model->make_state(1, expected.size(1));
  ModelInput input;
  input.input = expected.narrow(1, 0, prompt);
  for (int64_t i = prompt; i < expected.size(1); ++i) {
    const Tensor next = source.model->forward(input, &state).y.select(1, -1).argmax(-1, true);
    EXPECT_EQ(next.item<int64_t>(), expected[0][i].item<int64_t>()) << i;
    input.input = next;
  }
}

TEST(property, hugging_face_round_trip) {
  for (const auto& [name, input] : kFolders) {
    const TemporaryFolder place;
    HuggingFaceModel model = read_hugging_face(folder_of(name));
    EXPECT_EQ(hugging_face_misfit(model), "");
    write_hugging_face(place.path(), model, Value(Table{}));
    const TensorMap before = load_tensors(folder_of(name) + "/model.safetensors");
    const TensorMap after = load_tensors(place.file("model.safetensors"));
    ASSERT_EQ(before.size(), after.size());
    for (const auto& [key, tensor] : before) EXPECT_TRUE(at::equal(tensor, after.at(key))) << key;
    const Value config = parse_json(place.read("config.json"), "config.json");
    EXPECT_EQ(config.text(), model.config.text());
  }
}

TEST(property, converted_folders_load_again) {
  for (const auto& [name, input] : kFolders) {
    const TemporaryFolder place;
    const TensorMap io = load_tensors(folder_of(name) + "/io.safetensors");
    const SourceModel source = open_model(folder_of(name));
    for (const char* kind : {"pre_rms", "pre_crms"}) {
      const std::string out = place.file(kind);
      save_converted(source, convert_model(*source.model, transform(kind)), kind, out);
      EXPECT_EQ(is_hugging_face_folder(out), std::string(kind) == "pre_rms") << kind;
      const SourceModel again = open_model(out);
      EXPECT_NE(again.model->options().every_layer.norm.kind(), "layer_norm");
      expect_close(name, logits(*again.model, io.at(input)), io.at("out.logits"));
      expect_error([&] { save_converted(source, {}, kind, out); }, Fault::request,
                   {out, "nothing is ever written over"});
    }
    EXPECT_EQ(place.count(), 2u);
  }
}

/// A converted folder is right for those who read its layer norms as such: Hugging Face's library.
TEST(property, converted_folders_serve_layer_norms) {
  for (const auto& [name, input] : kFolders) {
    const TemporaryFolder place;
    const TensorMap io = load_tensors(folder_of(name) + "/io.safetensors");
    const SourceModel source = open_model(folder_of(name));
    save_converted(source, convert_model(*source.model, transform("pre_rms")), "pre_rms",
                   place.file("out"));
    Value config = parse_json(read_bytes(place.file("out/config.json")), "config.json");
    std::erase_if(*config.get<Table>(),
                  [](const auto& entry) { return entry.first == "formwork"; });
    write_bytes(place.file("out/config.json"), write_json(config));
    const SourceModel again = open_model(place.file("out"));
    EXPECT_EQ(again.model->options().every_layer.norm.kind(), "layer_norm");
    expect_close(name, logits(*again.model, io.at(input)), io.at("out.logits"));
  }
}

/// Opens a copy of a folder with a key of config.json changed.
void expect_refused_config(const std::string& name, const std::string& key, const Value& value,
                           std::initializer_list<std::string> words) {
  const TemporaryFolder place;
  const std::string folder = copy_of(name, place);
  Value config = parse_json(read_bytes(folder + "/config.json"), "config.json");
  config[key] = value;
  write_bytes(folder + "/config.json", write_json(config));
  expect_error([&] { open_model(folder); }, Fault::request, words);
}

TEST(property, hugging_face_refusals_name_the_key) {
  expect_refused_config("gpt2_lm", "architectures", Value(List{Value("LlamaForCausalLM")}),
                        {"config.json", "LlamaForCausalLM", "GPT2LMHeadModel"});
  expect_refused_config("gpt2_lm", "n_embd", Value(int64_t{64}), {"wte.weight", "[96, 32]"});
  expect_refused_config("gpt2_lm", "n_layer", Value("two"), {"n_layer", "two"});
  expect_refused_config("gpt2_lm", "activation_function", Value("mish"),
                        {"activation_function", "mish", "gelu_new"});
  expect_refused_config("gpt2_lm", "scale_attn_by_inverse_layer_idx", Value(true),
                        {"scale_attn_by_inverse_layer_idx"});
  expect_refused_config("gpt2_lm", "n_layer", Value(int64_t{3}), {"h.2.ln_1.weight"});
  expect_refused_config("gpt2_lm", "n_layer", Value(int64_t{1}), {"h.1.", "does not know"});
  expect_refused_config("vit_classifier", "patch_size", Value(int64_t{5}), {"patch_size", "5"});
  expect_refused_config("vit_classifier", "qkv_bias", Value(false), {".bias", "does not know"});
}

TEST(property, hugging_face_damage_is_named) {
  const TemporaryFolder place;
  const std::string folder = copy_of("gpt2_lm", place);
  const std::string weights = folder + "/model.safetensors";
  const std::string whole = read_bytes(weights);
  write_bytes(weights, whole.substr(0, whole.size() - 5));
  expect_error([&] { open_model(folder); }, Fault::request, {"model.safetensors"});
  std::filesystem::remove(weights);
  expect_error([&] { open_model(folder); }, Fault::request, {"model.safetensors", "missing"});
  write_bytes(folder + "/config.json", "{\"architectures\": [");
  expect_error([&] { open_model(folder); }, Fault::request, {"config.json"});
  expect_error([&] { open_model(place.file("nowhere")); }, Fault::request, {"nowhere"});
}

}  // namespace
}  // namespace formwork::test

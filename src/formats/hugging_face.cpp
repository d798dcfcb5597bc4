#include "formats/hugging_face.h"

#include <ATen/ATen.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "core/error.h"
#include "formats/atomic_file.h"
#include "formats/json.h"

namespace formwork {
namespace {

namespace fs = std::filesystem;

std::string in(const std::string& folder, const char* name) {
  return (fs::path(folder) / name).string();
}

/// Reads keys of config.json and says which one is at fault.
class Config {
 public:
  Config(const Value& table, const std::string& path) : table_(table), path_(path) {}

  int64_t whole(const char* key, std::optional<int64_t> otherwise = std::nullopt) const {
    const Value* value = find(key);
    if (!value && otherwise) return *otherwise;
    check(value && value->get<int64_t>() && *value->get<int64_t>() >= 1, where(key), "found ",
          value ? value->text() : "nothing", "; valid: an integer of 1 or more");
    return *value->get<int64_t>();
  }
  double real(const char* key, double otherwise) const {
    const Value* value = find(key);
    if (!value) return otherwise;
    if (const int64_t* integer = value->get<int64_t>()) return static_cast<double>(*integer);
    check(value->get<double>(), where(key), "found ", value->text(), "; valid: a number");
    return *value->get<double>();
  }
  bool flag(const char* key, bool otherwise) const {
    const Value* value = find(key);
    return value && value->get<bool>() ? *value->get<bool>() : otherwise;
  }
  std::string word(const char* key, const std::string& otherwise) const {
    const Value* value = find(key);
    return value && value->get<std::string>() ? *value->get<std::string>() : otherwise;
  }
  void expect_off(const char* key, const char* what) const {
    check(!flag(key, false), where(key), "is true: ", what, "; valid: false");
  }
  /// The name of an activation here.
  std::string activation(const char* key, const std::string& otherwise) const {
    const std::string name = word(key, otherwise);
    if (name == "gelu_new" || name == "gelu_pytorch_tanh") return "gelu_tanh";
    if (name == "swish") return "silu";
    check(name == "gelu" || name == "relu" || name == "silu", where(key), "found '", name,
          "'; valid: gelu, gelu_new, gelu_pytorch_tanh, relu, silu, swish");
    return name;
  }
  std::string where(const std::string& key) const { return path_ + ": " + key; }

 private:
  const Value* find(const char* key) const {
    const Value* value = table_.find(key);
    return value && !value->is_null() ? value : nullptr;
  }
  const Value& table_;
  std::string path_;
};

/// A tensor here and where it is found there: part `part` of `parts` along the last dimension.
struct Piece {
  std::string ours, theirs;
  std::vector<int64_t> our_shape, their_shape;  // of the whole tensor there
  bool transposed = false;
  int64_t part = 0, parts = 1;
  bool absent = false;  // a bias that the source lacks: 0 here

  at::Tensor read(const at::Tensor& whole) const {
    const at::Tensor piece = whole.chunk(parts, -1)[static_cast<size_t>(part)];
    return (transposed ? piece.t() : piece).reshape(our_shape).contiguous();
  }
  at::Tensor write(const at::Tensor& own) const {
    if (transposed) return own.t().contiguous();
    std::vector<int64_t> shape = their_shape;
    shape.back() /= parts;
    return own.reshape(shape);
  }
};

/// What an architecture is made of.
struct Layout {
  Value options, form;
  std::vector<Piece> pieces;
  std::string prefix;             // of the names there that published files may lack
  std::set<std::string> ignored;  // endings of names of buffers that hold nothing trained
};

/// Adds pieces; W is a weight [out, in], stored [in, out] where `transposed`.
class Pieces {
 public:
  explicit Pieces(std::vector<Piece>& list) : list_(list) {}

  void plain(const std::string& ours, const std::string& theirs, std::vector<int64_t> shape) {
    list_.push_back({ours, theirs, shape, shape});
  }
  void shaped(const std::string& ours, const std::string& theirs, std::vector<int64_t> our_shape,
              std::vector<int64_t> their_shape) {
    list_.push_back({ours, theirs, std::move(our_shape), std::move(their_shape)});
  }
  void norm(const std::string& ours, const std::string& theirs, int64_t width) {
    for (const char* part : {".weight", ".bias"}) plain(ours + part, theirs + part, {width});
  }
  void map(const std::string& ours, const std::string& theirs, int64_t out, int64_t in) {
    plain(ours + ".weight", theirs + ".weight", {out, in});
    plain(ours + ".bias", theirs + ".bias", {out});
  }
  /// Maps of one input that lie side by side there, [in, n·out].
  void transposed(const std::vector<std::string>& ours, const std::string& theirs, int64_t out,
                  int64_t in) {
    const auto n = static_cast<int64_t>(ours.size());
    for (int64_t i = 0; i < n; ++i) {
      const std::string& name = ours[static_cast<size_t>(i)];
      list_.push_back({name + ".weight", theirs + ".weight", {out, in}, {in, n * out}, true, i, n});
      list_.push_back({name + ".bias", theirs + ".bias", {out}, {n * out}, false, i, n});
    }
  }
  void without(const std::string& ours, int64_t out) {
    list_.push_back({ours, "", {out}, {out}, false, 0, 1, true});
  }

 private:
  std::vector<Piece>& list_;
};

Value kind_table(const char* kind) {
  return Value(Table{{"kind", Value(kind)}});
}

Value common_options(int64_t width, int64_t depth, int64_t heads, double eps) {
  Value options{Table{}};
  options["width"] = Value(width);
  options["depth"] = Value(depth);
  options["heads"] = Value(heads);
  options["norm"] = kind_table("layer_norm");
  options["norm"]["eps"] = Value(eps);
  options["wiring"] = kind_table("pre");
  options["mixer"] = kind_table("softmax");
  options["mixer"]["bias"] = Value(true);
  options["position"] = kind_table("learned");
  return options;
}

Value mlp(const std::string& activation, int64_t hidden) {
  Value table = kind_table("mlp");
  table["act"] = Value(activation);
  table["hidden"] = Value(hidden);
  return table;
}

Layout gpt2(const Config& config) {
  const int64_t width = config.whole("n_embd"), depth = config.whole("n_layer");
  const int64_t vocabulary = config.whole("vocab_size"), length = config.whole("n_positions");
  const int64_t hidden = config.whole("n_inner", 4 * width);
  config.expect_off("add_cross_attention", "a decoder alone has no encoder to read");
  config.expect_off("scale_attn_by_inverse_layer_idx", "scores are not scaled by the layer here");
  Layout layout;
  layout.options =
      common_options(width, depth, config.whole("n_head"), config.real("layer_norm_epsilon", 1e-5));
  Value& options = layout.options;
  options["form"] = Value("decoder");
  options["position"]["max_positions"] = Value(length);
  if (!config.flag("scale_attn_weights", true)) options["mixer"]["scale"] = Value(1.0);
  options["channel"] = mlp(config.activation("activation_function", "gelu_new"), hidden);
  const bool tied = config.flag("tie_word_embeddings", true);
  options["head"]["tied"] = Value(tied);
  layout.form = Value(Table{{"input", Value("tokens")},
                            {"vocabulary", Value(vocabulary)},
                            {"length", Value(length)},
                            {"output", Value("tokens")},
                            {"size", Value(vocabulary)},
                            {"form", Value("decoder")}});
  layout.prefix = "transformer.";
  layout.ignored = {".attn.bias", ".attn.masked_bias"};
  Pieces pieces(layout.pieces);
  const std::string top = layout.prefix;
  pieces.plain("stem.weight", top + "wte.weight", {vocabulary, width});
  pieces.plain("position.weight", top + "wpe.weight", {length, width});
  for (int64_t i = 0; i < depth; ++i) {
    const std::string own = join_text("layers.", i, "."), their = join_text(top, "h.", i, ".");
    pieces.norm(own + "attn.norm_in", their + "ln_1", width);
    pieces.transposed({own + "q_proj", own + "k_proj", own + "v_proj"}, their + "attn.c_attn",
                      width, width);
    pieces.transposed({own + "out_proj"}, their + "attn.c_proj", width, width);
    pieces.norm(own + "ffn.norm_in", their + "ln_2", width);
    pieces.transposed({own + "ffn.up"}, their + "mlp.c_fc", hidden, width);
    pieces.transposed({own + "ffn.down"}, their + "mlp.c_proj", width, hidden);
  }
  pieces.norm("final_norm", top + "ln_f", width);
  if (!tied) pieces.plain("head.weight", "lm_head.weight", {vocabulary, width});
  return layout;
}

Layout vit(const Config& config, int64_t classes) {
  const int64_t width = config.whole("hidden_size"), depth = config.whole("num_hidden_layers");
  const int64_t hidden = config.whole("intermediate_size");
  const int64_t channels = config.whole("num_channels", 3);
  const int64_t side = config.whole("image_size", 224), patch = config.whole("patch_size", 16);
  check(side % patch == 0, config.where("patch_size"), "found ", patch, " with image_size ", side,
        "; valid: a divisor of it");
  const int64_t tokens = (side / patch) * (side / patch) + 1;
  Layout layout;
  layout.options = common_options(width, depth, config.whole("num_attention_heads"),
                                  config.real("layer_norm_eps", 1e-12));
  Value& options = layout.options;
  options["form"] = Value("encoder");
  options["stem"] = kind_table("patch");
  options["stem"]["size"] = Value(patch);
  options["position"]["max_positions"] = Value(tokens);
  options["channel"] = mlp(config.activation("hidden_act", "gelu"), hidden);
  options["head"]["pooling"] = Value("cls");
  layout.form = Value(Table{{"input", Value("image")},
                            {"channels", Value(channels)},
                            {"height", Value(side)},
                            {"width", Value(side)},
                            {"output", Value("classes")},
                            {"size", Value(classes)},
                            {"form", Value("encoder")}});
  Pieces pieces(layout.pieces);
  const std::string embeddings = "vit.embeddings.";
  pieces.shaped("stem.projection.weight", embeddings + "patch_embeddings.projection.weight",
                {width, channels * patch * patch}, {width, channels, patch, patch});
  pieces.plain("stem.projection.bias", embeddings + "patch_embeddings.projection.bias", {width});
  pieces.shaped("cls", embeddings + "cls_token", {width}, {1, 1, width});
  pieces.shaped("position.weight", embeddings + "position_embeddings", {tokens, width},
                {1, tokens, width});
  const bool bias = config.flag("qkv_bias", true);
  for (int64_t i = 0; i < depth; ++i) {
    const std::string own = join_text("layers.", i, "."),
                      their = join_text("vit.encoder.layer.", i, ".");
    pieces.norm(own + "attn.norm_in", their + "layernorm_before", width);
    for (const auto& [name, there] :
         {std::pair("q_proj", "query"), std::pair("k_proj", "key"), std::pair("v_proj", "value")}) {
      const std::string whole = join_text(their, "attention.attention.", there);
      pieces.plain(own + name + ".weight", whole + ".weight", {width, width});
      if (bias)
        pieces.plain(own + name + ".bias", whole + ".bias", {width});
      else
        pieces.without(own + name + ".bias", width);
    }
    pieces.map(own + "out_proj", their + "attention.output.dense", width, width);
    pieces.norm(own + "ffn.norm_in", their + "layernorm_after", width);
    pieces.map(own + "ffn.up", their + "intermediate.dense", hidden, width);
    pieces.map(own + "ffn.down", their + "output.dense", width, hidden);
  }
  pieces.norm("final_norm", "vit.layernorm", width);
  pieces.map("head", "classifier", classes, width);
  return layout;
}

int64_t class_count(const Value& config) {
  const Value* names = config.find("id2label");
  if (names && names->get<Table>()) return static_cast<int64_t>(names->get<Table>()->size());
  const Value* count = config.find("num_labels");
  return count && count->get<int64_t>() ? *count->get<int64_t>() : 2;
}

std::string architecture_of(const Value& config) {
  const Value* list = config.find("architectures");
  if (list && list->get<List>() && !list->get<List>()->empty())
    if (const std::string* name = list->get<List>()->front().get<std::string>()) return *name;
  const Value* type = config.find("model_type");
  return type && type->get<std::string>() ? *type->get<std::string>() : "";
}

Layout layout_of(const std::string& architecture, const Value& config, const std::string& path) {
  const Config reader(config, path);
  if (architecture == "GPT2LMHeadModel") return gpt2(reader);
  if (architecture == "ViTForImageClassification") return vit(reader, class_count(config));
  refuse(path, "found the architecture '", architecture,
         "'; valid: GPT2LMHeadModel, ViTForImageClassification");
}

/// Some published files leave the prefix out.
std::string name_in(const SafetensorsFile& file, const Layout& layout, const std::string& name) {
  if (!file.find(name) && !layout.prefix.empty() && name.rfind(layout.prefix, 0) == 0)
    return name.substr(layout.prefix.size());
  return name;
}

TensorMap read_pieces(const SafetensorsFile& file, const Layout& layout) {
  TensorMap tensors;
  std::set<std::string> used;
  for (const Piece& piece : layout.pieces) {
    if (piece.absent) {
      tensors[piece.ours] = at::zeros(piece.our_shape);
      continue;
    }
    const std::string name = name_in(file, layout, piece.theirs);
    const TensorEntry* entry = file.find(name);
    check(entry, file.path(), "has no tensor '", name, "', which config.json speaks of");
    check(entry->shape == piece.their_shape, file.path(), "tensor '", name, "' has shape ",
          at::IntArrayRef(entry->shape), ", but config.json says ",
          at::IntArrayRef(piece.their_shape));
    tensors[piece.ours] = piece.read(load_tensor(file, *entry));
    used.insert(name);
  }
  for (const TensorEntry& entry : file.entries()) {
    bool known = used.count(entry.name) > 0 || entry.name == "lm_head.weight";
    for (const std::string& ending : layout.ignored) known = known || entry.name.ends_with(ending);
    check(known, file.path(), "has a tensor '", entry.name,
          "' that this architecture does not know");
  }
  return tensors;
}

/// Puts the keys of `changed` over those of `table`, tables key by key unless the kind changes.
void overlay(Value& table, const Value& changed) {
  for (const auto& [key, value] : *changed.get<Table>()) {
    const bool choice = value.find("kind") != nullptr;
    if (value.get<Table>() && !choice && table.find(key))
      overlay(table[key], value);
    else
      table[key] = value;
  }
}

}  // namespace

bool is_hugging_face_folder(const std::string& folder) {
  std::error_code ignored;
  return fs::is_regular_file(in(folder, "config.json"), ignored);
}

HuggingFaceModel read_hugging_face(const std::string& folder) {
  const std::string path = in(folder, "config.json");
  std::ifstream file(path, std::ios::binary);
  check(file.good(), path,
        "cannot be read; valid: a folder with config.json and model.safetensors");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  HuggingFaceModel model;
  model.config = parse_json(text, path);
  check(model.config.get<Table>(), path, "is no JSON object");
  model.architecture = architecture_of(model.config);
  const Layout layout = layout_of(model.architecture, model.config, path);
  const std::string weights = in(folder, "model.safetensors");
  check(fs::exists(weights), weights,
        "is missing; valid: all weights in this one file, not in parts and not as .bin");
  model.options = layout.options;
  model.form = layout.form;
  model.tensors = read_pieces(SafetensorsFile::open(weights), layout);
  const Value* own = model.config.find("formwork");
  if (own && own->find("model") && own->find("model")->get<Table>())
    overlay(model.options, *own->find("model"));
  return model;
}

std::string hugging_face_misfit(const HuggingFaceModel& model) {
  Value config = model.config;
  config["tie_word_embeddings"] = Value(model.tensors.count("head.weight") == 0);
  const Layout layout = layout_of(model.architecture, config, "config.json");
  TensorMap left = model.tensors;
  for (const Piece& piece : layout.pieces) {
    const auto found = left.find(piece.ours);
    if (found == left.end()) return piece.ours + ", which is gone";
    if (found->second.sizes() != at::IntArrayRef(piece.our_shape))
      return join_text(piece.ours, ", which has shape ", found->second.sizes());
    if (piece.absent && found->second.any().item<bool>()) return piece.ours;
    left.erase(found);
  }
  return left.empty() ? "" : left.begin()->first;
}

void write_hugging_face(const std::string& folder, const HuggingFaceModel& model,
                        const Value& changed) {
  Value config = model.config;
  if (model.form.find("output")->text() == Value("tokens").text())
    config["tie_word_embeddings"] = Value(model.tensors.count("head.weight") == 0);
  if (!changed.get<Table>()->empty()) config["formwork"]["model"] = changed;
  const Layout layout = layout_of(model.architecture, config, in(folder, "config.json"));
  std::map<std::string, std::vector<at::Tensor>> gathered;
  for (const Piece& piece : layout.pieces)
    if (!piece.absent) gathered[piece.theirs].push_back(piece.write(model.tensors.at(piece.ours)));
  TensorMap tensors;
  for (const auto& [name, list] : gathered)
    tensors[name] = list.size() == 1 ? list.front() : at::cat(list, -1);
  save_tensors(in(folder, "model.safetensors"), tensors, {{"format", "pt"}});
  write_file_atomically(in(folder, "config.json"), write_json(config, 2) + "\n");
}

}  // namespace formwork

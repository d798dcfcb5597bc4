#include "training/model_folder.h"

#include <filesystem>

#include "formats/atomic_file.h"
#include "training/trainer.h"

namespace formwork {
namespace {

namespace fs = std::filesystem;

std::string in(const std::string& folder, const char* name) {
  return (fs::path(folder) / name).string();
}

/// A TaskForm as options: the table [form] of model.toml.
struct FormOptions {
  std::string input = "tokens", output = "tokens", form = "decoder";
  int64_t vocabulary = 0, channels = 0, height = 0, width = 0, length = 0;
  int64_t source_vocabulary = 0, source_length = 0;
  int64_t size = 1, horizon = 0;

  void describe(OptionSet& o) {
    o.add("input", input, "what goes in", one_of({"tokens", "image", "series", "audio"}));
    o.add("vocabulary", vocabulary, "ids of tokens", at_least(0));
    o.add("channels", channels, "of images and series", at_least(0));
    o.add("height", height, "of images", at_least(0));
    o.add("width", width, "of images", at_least(0));
    o.add("length", length, "the longest sequence; 0 = any", at_least(0));
    o.add("source_vocabulary", source_vocabulary, "ids that an encoder reads", at_least(0));
    o.add("source_length", source_length, "the longest sequence that an encoder reads",
          at_least(0));
    o.add("output", output, "what comes out", one_of({"classes", "tokens", "values"}));
    o.add("size", size, "classes, ids of tokens, or numbers a step", at_least(1));
    o.add("horizon", horizon, "steps of values", at_least(0));
    o.add("form", form, "of the model", one_of({"encoder", "decoder", "encoder_decoder"}));
  }

  TaskForm task() const {
    using Input = InputForm::Kind;
    using Output = OutputForm::Kind;
    TaskForm task;
    task.form = form;
    task.input.kind = input == "image"    ? Input::image
                      : input == "series" ? Input::series
                      : input == "audio"  ? Input::audio
                                          : Input::tokens;
    task.input.vocabulary = vocabulary;
    task.input.channels = channels;
    task.input.height = height;
    task.input.width = width;
    task.input.length = length;
    task.output.kind = output == "classes"  ? Output::classes
                       : output == "values" ? Output::values
                                            : Output::tokens;
    task.output.size = size;
    task.output.horizon = horizon;
    task.source.vocabulary = source_vocabulary;
    task.source.length = source_length;
    return task;
  }

  static FormOptions of(const TaskForm& task) {
    FormOptions o;
    o.form = task.form;
    o.input = kind_name(task.input.kind);
    o.vocabulary = task.input.vocabulary;
    o.channels = task.input.channels;
    o.height = task.input.height;
    o.width = task.input.width;
    o.length = task.input.length;
    o.output = task.output.kind == OutputForm::Kind::classes  ? "classes"
               : task.output.kind == OutputForm::Kind::values ? "values"
                                                              : "tokens";
    o.size = task.output.size;
    o.horizon = task.output.horizon;
    o.source_vocabulary = task.source.vocabulary;
    o.source_length = task.source.length;
    return o;
  }
};

TaskForm form_from(const Value& table) {
  FormOptions options;
  OptionSet set;
  options.describe(set);
  set.read(table, "form");
  return options.task();
}

SourceModel open_hugging_face(const std::string& path) {
  SourceModel source;
  source.path = path;
  source.hugging_face = read_hugging_face(path);
  const HuggingFaceModel& found = *source.hugging_face;
  const TaskForm task = form_from(found.form);
  const bool wide = found.tensors.begin()->second.scalar_type() == at::kDouble;
  source.model = build_model(options_from(found.options, task), task, found.tensors,
                             wide ? at::kDouble : at::kFloat, in(path, "model.safetensors"));
  return source;
}

SourceModel open_model_folder(const std::string& path) {
  SourceModel source;
  source.path = path;
  const Value table = read_toml(in(path, "model.toml"));
  const Value *form = table.find("form"), *model = table.find("model");
  check(form && model, in(path, "model.toml"), "needs the tables [form] and [model]");
  const TaskForm task = form_from(*form);
  const TensorMap tensors = load_tensors(in(path, "model.safetensors"));
  check(!tensors.empty(), in(path, "model.safetensors"), "holds no tensors");
  const bool wide = tensors.begin()->second.scalar_type() == at::kDouble;
  source.model = build_model(options_from(*model, task), task, tensors,
                             wide ? at::kDouble : at::kFloat, in(path, "model.safetensors"));
  return source;
}

}  // namespace

bool is_taskless(const std::string& path) {
  return is_hugging_face_folder(path) || fs::is_regular_file(in(path, "model.toml"));
}

Value options_table(const ModelOptions& options) {
  ModelOptions copy = options;
  OptionSet set;
  copy.describe(set);
  return set.write();
}

ModelOptions options_from(const Value& table, const TaskForm& task) {
  ModelOptions options;
  OptionSet set;
  options.describe(set);
  set.read(table, "model");
  options.settle(table, task);
  validate(options, task);
  return options;
}

std::shared_ptr<Model> build_model(const ModelOptions& options, const TaskForm& task,
                                   const TensorMap& tensors, at::ScalarType type,
                                   const std::string& where) {
  auto model = std::make_shared<Model>(options, task, 1);
  model->to(type);
  load_model(*model, tensors, where);
  model->eval();
  return model;
}

void save_model_folder(const std::string& folder, const Model& model, const TensorMap& tensors) {
  FormOptions form = FormOptions::of(model.task());
  OptionSet set;
  form.describe(set);
  Value table{Table{}};
  table["form"] = set.write();
  table["model"] = options_table(model.options());
  save_tensors(in(folder, "model.safetensors"), tensors, {{"format", "pt"}});
  write_file_atomically(in(folder, "model.toml"), write_toml(table));
}

SourceModel open_model(const std::string& path) {
  check(fs::is_directory(path), path,
        "is no folder; valid: a run folder, a checkpoint in it, or a Hugging Face folder");
  if (is_hugging_face_folder(path)) return open_hugging_face(path);
  if (fs::is_regular_file(in(path, "model.toml"))) return open_model_folder(path);
  SourceModel source;
  source.path = path;
  source.run = load_run(path);
  source.model = source.run->model;
  return source;
}

}  // namespace formwork

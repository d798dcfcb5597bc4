#include "support/tiny_model.h"

namespace formwork::test {

TaskForm token_task(const std::string& form) {
  TaskForm task;
  task.form = form;
  task.input.kind = InputForm::Kind::tokens;
  task.input.vocabulary = kVocabulary;
  task.input.length = kLength;
  task.output.kind = OutputForm::Kind::tokens;
  task.output.size = kVocabulary;
  return task;
}

TaskForm image_task() {
  TaskForm task;
  task.form = "encoder";
  task.input.kind = InputForm::Kind::image;
  task.input.channels = 1;
  task.input.height = task.input.width = 8;
  task.output.kind = OutputForm::Kind::classes;
  task.output.size = kVocabulary;
  return task;
}

ModelOptions tiny_options(const TaskForm& task, const std::function<void(ModelOptions&)>& change) {
  ModelOptions options;
  options.width = 16;
  options.depth = 2;
  options.heads = 2;
  options.init.deviation = 0.2;
  change(options);
  Value given{Table{}};
  given["stem"] = Value("kept");
  given["channel_wiring"] = Value("kept");
  options.settle(given, task);
  return options;
}

AnyChoice* choice_of(ModelOptions& options, const std::string& axis) {
  if (axis == "mixer") return &options.every_layer.mixer;
  if (axis == "channel") return &options.every_layer.channel;
  if (axis == "norm") return &options.every_layer.norm;
  if (axis == "wiring") return &options.every_layer.wiring;
  if (axis == "position") return &options.position;
  if (axis == "conditioning") return &options.conditioning;
  if (axis == "linear") return &options.linear;
  if (axis == "depth") return &options.depth_plan;
  return nullptr;
}

bool valid(const ModelOptions& options, const TaskForm& task) {
  try {
    validate(options, task);
    return true;
  } catch (const Error&) {
    return false;
  }
}

Tensor tiny_tokens(uint64_t seed) {
  return at::randint(kVocabulary, {2, kLength}, generator_of(RandomStream(seed)), at::kLong);
}

Tensor tiny_images(uint64_t seed) {
  return normal_tensor({2, 1, 8, 8}, 1.0, RandomStream(seed));
}

Tensor run(Model& model, const Tensor& ids, const Tensor& valid) {
  ModelInput input;
  input.input = ids;
  input.valid = valid;
  return model.forward(input).y;
}

}  // namespace formwork::test

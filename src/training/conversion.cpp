#include "training/conversion.h"

#include <c10/core/GradMode.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "training/run_folder.h"

namespace formwork {
namespace {

namespace fs = std::filesystem;

double largest(const Tensor& x) {
  return x.numel() == 0 ? 0.0 : x.abs().max().item<double>();
}

/// What the residual stream held after each sublayer.
struct StreamObserver final : Observer {
  std::vector<std::pair<std::string, Tensor>> seen;
  void see(const std::string& point, const Tensor& tensor) override {
    const bool stream = point.ends_with(".stream") || point == "stem.output";
    if (stream) seen.emplace_back(point.substr(0, point.rfind('.')), tensor.detach().clone());
  }
};

/// How far two streams are apart; where a conversion takes the mean out and leaves the last channel
/// away, both are looked at without them.
double apart(const Tensor& before, const Tensor& after) {
  const int64_t shared = std::min(before.size(-1), after.size(-1) + 1) - 1;
  const auto start = [&](const Tensor& x) { return x.narrow(-1, 0, shared); };
  const Tensor centred = before - before.mean(-1, true);
  return std::min(largest(start(before) - start(after)), largest(start(centred) - start(after)));
}

/// The first sublayer after which the streams of both models differ.
std::string first_parting(Model& before, Model& after, const ModelInput& input) {
  StreamObserver was, is;
  ModelInput watched = input;
  watched.observer = &was;
  before.forward(watched);
  watched.observer = &is;
  after.forward(watched);
  for (size_t i = 0; i < std::min(was.seen.size(), is.seen.size()); ++i)
    if (was.seen[i].second.size(1) != is.seen[i].second.size(1) ||
        apart(was.seen[i].second, is.seen[i].second) > 1e-9 * largest(was.seen[i].second))
      return was.seen[i].first;
  return "head";
}

double difference(Model& a, Model& b, const ModelInput& input, double* size) {
  const Tensor expected = a.forward(input).y;
  *size = largest(expected);
  return largest(expected - b.forward(input).y);
}

TensorMap tensors_of(const Model& model, at::ScalarType type) {
  TensorMap tensors;
  for (const auto& [name, tensor] : model.named_tensors())
    tensors[name] = tensor.is_floating_point() ? tensor.detach().to(type) : tensor.detach();
  return tensors;
}

ModelInput cast(const ModelInput& input, at::ScalarType type) {
  ModelInput copy = input;
  if (copy.input.is_floating_point()) copy.input = copy.input.to(type);
  return copy;
}

/// The keys of [model] whose tables differ.
Value changed_keys(const Value& before, const Value& after) {
  Value changed{Table{}};
  for (const auto& [key, value] : *after.get<Table>()) {
    const Value* old = before.find(key);
    if (!old || old->text() != value.text()) changed[key] = value;
  }
  return changed;
}

/// What Hugging Face's layout cannot say of a model, or "".
std::string misfit(const HuggingFaceModel& model, const Value& changed) {
  for (const auto& [key, value] : *changed.get<Table>())
    if (key != "norm" && key != "head" && key != "centre_embedding") return "model." + key;
  return hugging_face_misfit(model);
}

/// Fills a folder beside `out` and gives it that name when it is whole.
void write_folder(const std::string& out, const std::function<void(const std::string&)>& fill) {
  const std::string temporary = join_text(out, ".", ::getpid(), ".tmp");
  std::error_code error;
  fs::create_directories(temporary, error);
  if (error) fail(out, "cannot be made: ", error.message());
  try {
    fill(temporary);
    expect_new(out);
    fs::rename(temporary, out, error);
    if (error) fail(out, "cannot be written: ", error.message());
  } catch (...) {
    fs::remove_all(temporary, error);
    throw;
  }
}

void save_run(const LoadedRun& run, const Converted& converted, const std::string& transform,
              const std::string& out) {
  Recipe recipe = run.recipe;
  recipe.model = converted.model->options();
  Checkpoint checkpoint = load_checkpoint(run.checkpoint);
  checkpoint.recipe = recipe.resolved();
  checkpoint.model = tensors_of(*converted.model, converted.model->type());
  checkpoint.optimizer.clear();  // its moments belong to the old parameters
  RunFolder folder = RunFolder::create(out);
  folder.write_recipe(checkpoint.recipe);
  Value summary{Table{}};
  summary["converted_from"] = Value(run.checkpoint);
  summary["transform"] = Value(transform);
  summary["steps"] = Value(checkpoint.step);
  summary["parameters"] = Value(converted.model->parameter_count());
  summary["largest_difference"] = Value(converted.difference);
  folder.write_summary(summary);
  folder.save(checkpoint, KeepRule{});
}

}  // namespace

void expect_new(const std::string& out) {
  std::error_code ignored;
  check(!out.empty() && !fs::exists(fs::symlink_status(out, ignored)), out.empty() ? "OUT" : out,
        "is there already; valid: a name that is free, nothing is ever written over");
}

ModelInput random_input(const Model& model, int64_t batch, uint64_t seed) {
  const RandomStream random(seed);
  const auto tokens = [&](const InputForm& form, const char* name) {
    const int64_t length = form.length > 0 ? form.length : 64;
    return uniform_tensor({batch, length}, 0.0, 1.0, random.child(name))
        .to(at::kDouble)
        .mul(static_cast<double>(form.vocabulary))
        .floor()
        .clamp_max(static_cast<double>(form.vocabulary - 1))
        .to(at::kLong);
  };
  const InputForm& form = model.task().input;
  ModelInput input;
  if (model.task().source.vocabulary > 0) input.source = tokens(model.task().source, "source");
  const auto normal = [&](at::IntArrayRef shape) {
    return normal_tensor(shape, 1.0, random.child("input")).to(model.type());
  };
  switch (form.kind) {
    case InputForm::Kind::tokens:
      input.input = tokens(form, "input");
      break;
    case InputForm::Kind::image:
      input.input = normal({batch, form.channels, form.height, form.width});
      break;
    case InputForm::Kind::series:
      input.input = normal({batch, form.length > 0 ? form.length : 64, form.channels});
      break;
    case InputForm::Kind::audio:
      input.input = normal({batch, form.length});
      break;
  }
  return input;
}

Converted convert_model(Model& model, const Choice<Transform>& transform) {
  const c10::NoGradGuard no_grad;
  const std::string where = "transform." + transform.kind();
  const auto wide = build_model(model.options(), model.task(), tensors_of(model, at::kDouble),
                                at::kDouble, where);
  TransformSite site;
  const ModelParts parts = transform.make(site)->apply(*wide, options_table(model.options()));
  const ModelOptions options = options_from(parts.options, model.task());
  const auto exact = build_model(options, model.task(), parts.tensors, at::kDouble, where);
  const ModelInput input = cast(random_input(model, 2, 17), at::kDouble);
  Converted result;
  const double off = difference(*wide, *exact, input, &result.largest);
  if (!(off <= 1e-9 * result.largest))
    refuse(first_parting(*wide, *exact, input), "computes something else after the conversion '",
           transform.kind(), "' (outputs differ by ", off, " of ", result.largest,
           "), so this model cannot be converted");
  result.model = build_model(options, model.task(), parts.tensors, model.type(), where);
  result.notes = parts.notes;
  result.difference = difference(model, *result.model, cast(input, model.type()), &result.largest);
  const double allowed = model.type() == at::kDouble ? 1e-9 : 1e-4;
  if (!(result.difference <= allowed * result.largest))
    fail(where, "outputs differ by ", result.difference, " of ", result.largest,
         " after rounding to the model's number type; the weights are too far apart in size");
  return result;
}

std::pair<double, double> time_beside(Model& a, Model& b, const ModelInput& input, int rounds) {
  const c10::NoGradGuard no_grad;
  using Clock = std::chrono::steady_clock;
  std::vector<double> times[2];
  for (int i = 0; i <= rounds; ++i)
    for (const int which : {0, 1}) {
      const auto start = Clock::now();
      (which == 0 ? a : b).forward(input);
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      if (i > 0) times[which].push_back(seconds);  // the first pass warms up
    }
  for (auto& list : times) std::sort(list.begin(), list.end());
  return {times[0][times[0].size() / 2], times[1][times[1].size() / 2]};
}

std::string save_converted(const SourceModel& source, const Converted& converted,
                           const std::string& transform, const std::string& out) {
  expect_new(out);
  if (source.run) {
    save_run(*source.run, converted, transform, out);
    return "a run folder: evaluate and generate take it";
  }
  std::string reason;
  if (source.hugging_face) {
    HuggingFaceModel next = *source.hugging_face;
    const at::ScalarType type = next.tensors.begin()->second.scalar_type();
    next.tensors = tensors_of(*converted.model, type);
    const Value changed = changed_keys(options_table(source.model->options()),
                                       options_table(converted.model->options()));
    reason = misfit(next, changed);
    if (reason.empty()) {
      write_folder(out,
                   [&](const std::string& folder) { write_hugging_face(folder, next, changed); });
      return "Hugging Face's layout (config.json, model.safetensors)";
    }
    reason = ", since Hugging Face's layout has no place for " + reason;
  }
  write_folder(out, [&](const std::string& folder) {
    save_model_folder(folder, *converted.model,
                      tensors_of(*converted.model, converted.model->type()));
  });
  return "Formwork's own layout (model.toml, model.safetensors)" + reason;
}

}  // namespace formwork

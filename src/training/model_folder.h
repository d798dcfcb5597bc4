// Models on disk, whatever wrote them: runs, Hugging Face folders, and folders with a model alone.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "formats/hugging_face.h"
#include "training/run.h"

namespace formwork {

/// A model with what it takes to write it in its own layout again.
struct SourceModel {
  std::string path;
  std::shared_ptr<Model> model;  // in evaluation mode
  std::optional<LoadedRun> run;  // where a run was opened
  std::optional<HuggingFaceModel> hugging_face;
};

/// Opens a run folder, a checkpoint, a Hugging Face folder or a folder that save_model_folder()
/// wrote.
SourceModel open_model(const std::string& path);

/// Whether the folder holds a model without a task: one of Hugging Face or of save_model_folder().
bool is_taskless(const std::string& path);

/// The settled table [model] of a model, every default written out.
Value options_table(const ModelOptions& options);
/// Options from such a table, settled and validated for the task.
ModelOptions options_from(const Value& table, const TaskForm& task);
/// A model in evaluation mode, of the number type `type`, with these tensors; `where` names their
/// source in errors.
std::shared_ptr<Model> build_model(const ModelOptions& options, const TaskForm& task,
                                   const TensorMap& tensors, at::ScalarType type,
                                   const std::string& where);

/// Writes model.toml (tables [form] and [model]) and model.safetensors into a folder that is there.
void save_model_folder(const std::string& folder, const Model& model, const TensorMap& tensors);

}  // namespace formwork

// Which methods go together, asked of the validator itself: nothing is known here of any method.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/registry.h"
#include "model/options.h"

namespace formwork {

/// A use of a model that methods are tried in.
struct ModelUse {
  std::string name;  // "decoder", "encoder", "images", ...
  TaskForm form;
};
const std::vector<ModelUse>& model_uses();

/// Where an axis stands in a recipe: "model.norm", "optimizer", "model.depth_plan", ...
std::string recipe_key(const std::string& axis);
/// How one chooses a method: `model.norm.kind = "rms_norm"`, or the command that takes it.
std::string choice_text(const MethodInfo& method);
/// The method that a recipe gets which names none on this axis; empty for tasks, for lists
/// such as constraint and for axes that no recipe names.
std::string default_of(const std::string& axis);
/// Whether a choice on this axis is part of the model.
bool is_model_axis(const std::string& axis);

/// Small settled and valid options with these kinds by axis, all else default; refuses as the
/// validator does.
ModelOptions small_model(const std::vector<std::pair<std::string, std::string>>& kinds,
                         const TaskForm& form);

/// Another method, and why the two do not go together (nothing: they do).
struct Fit {
  const MethodInfo* other;
  std::optional<std::string> reason;
};
/// What `method` was tried with: every method of every other axis that bears on the same part of a
/// recipe, sorted by axis. Both have their default options.
std::vector<Fit> fits_of(const MethodInfo& method);
/// The uses in which the method works with its default options and those of all else.
std::vector<const ModelUse*> uses_of(const MethodInfo& method);

}  // namespace formwork

// Small models over a vocabulary of 11 tokens, for tests that run on every method.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "model/model.h"

namespace formwork::test {

inline constexpr int64_t kVocabulary = 11;
inline constexpr int64_t kLength = 12;

/// A task of token sequences, an output at every token.
TaskForm token_task(const std::string& form);
/// A task of images with 8 x 8 pixels in classes, for what needs continuous tokens.
TaskForm image_task();
/// Width 16, two layers, two heads, ready to validate; `change` sets what is tested. A mixer that
/// needs a wiring with a momentum gets one, and the other way around.
ModelOptions tiny_options(const TaskForm& task, const std::function<void(ModelOptions&)>& change);
/// The choice a model has on an axis ("mixer", "norm", ...); null when models have none there.
AnyChoice* choice_of(ModelOptions& options, const std::string& axis);
/// Whether the validator takes the options.
bool valid(const ModelOptions& options, const TaskForm& task);
/// [2, kLength] ids.
Tensor tiny_tokens(uint64_t seed = 3);
/// [2,1,8,8] pixels.
Tensor tiny_images(uint64_t seed = 3);
/// Runs the model on ids, all valid unless `valid` is given.
Tensor run(Model& model, const Tensor& ids, const Tensor& valid = {});

}  // namespace formwork::test

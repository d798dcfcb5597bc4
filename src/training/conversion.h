// Converting a trained model, with the proof that it computes the same.
#pragma once

#include "methods/transform/transform.h"
#include "training/model_folder.h"

namespace formwork {

/// A converted model beside the one it was made from.
struct Converted {
  std::shared_ptr<Model> model;  // of the number type of the original, in evaluation mode
  std::vector<std::string> notes;
  double difference = 0.0;  // the largest between both outputs on random input, in that type
  double largest = 0.0;     // the largest magnitude of an output
};

/// Applies the transform in float64 and checks there that outputs agree to 1e-9 of the largest on
/// random input; refuses, naming the first sublayer after which the streams part, where they do
/// not. Then rounds to the model's type and checks again (float32: 1e-4 of the largest).
Converted convert_model(Model& model, const Choice<Transform>& transform);

/// A random input of the form that the model takes: `batch` items, of full length where it has one.
ModelInput random_input(const Model& model, int64_t batch, uint64_t seed);

/// Median seconds of a pass of each model on one input, taken in turns.
std::pair<double, double> time_beside(Model& a, Model& b, const ModelInput& input, int rounds);

/// Writes the converted model to the new folder `out`: a run for a run, Hugging Face's layout for a
/// Hugging Face folder where that still fits, else a folder with the model alone. Returns a
/// sentence that says which. A folder that is there is refused.
std::string save_converted(const SourceModel& source, const Converted& converted,
                           const std::string& transform, const std::string& out);
/// Refuses an `out` that is there.
void expect_new(const std::string& out);

}  // namespace formwork

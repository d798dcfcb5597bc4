// Model folders in Hugging Face's layout: config.json and model.safetensors.
#pragma once

#include <string>

#include "core/value.h"
#include "formats/tensors.h"

namespace formwork {

/// A Hugging Face model in Formwork's words. Read: GPT2LMHeadModel (Radford et al. 2019) and
/// ViTForImageClassification (Dosovitskiy et al. 2020, arXiv 2010.11929).
struct HuggingFaceModel {
  std::string architecture;
  Value config;       // config.json as it was
  Value options;      // table [model]
  Value form;         // table [form]: what goes in and comes out
  TensorMap tensors;  // by Formwork's names, of the file's types
};

/// Whether the folder holds a config.json.
bool is_hugging_face_folder(const std::string& folder);

/// Reads a folder. Errors name the file, the key or the tensor: no config.json, an architecture
/// that is not one of those above, settings that the model has no counterpart for, a damaged file,
/// tensors that are missing, too many or of another shape than config.json says.
HuggingFaceModel read_hugging_face(const std::string& folder);

/// "" where the architecture's layout can hold the tensors, else the first that does not fit.
std::string hugging_face_misfit(const HuggingFaceModel& model);

/// Writes config.json and model.safetensors into a folder that is there. `changed` holds the keys
/// of [model] that differ from what config.json says of itself: they are kept under the key
/// "formwork", which Hugging Face's library ignores and read_hugging_face() follows.
void write_hugging_face(const std::string& folder, const HuggingFaceModel& model,
                        const Value& changed);

}  // namespace formwork

// The forms in which verbs let a model hold its weights.
#pragma once

#include <string>
#include <vector>

#include "model/model.h"

namespace formwork {

/// The words of --weights.
inline const std::vector<std::string>& weight_forms() {
  static const std::vector<std::string> forms{"float32", "bfloat16", "int8"};
  return forms;
}

/// Packs the model's weights in one of the forms; float32 leaves them as they are.
inline PackedMaps hold_weights(Model& model, const std::string& form) {
  if (form == "float32") return {};
  return model.pack(form == "int8" ? PackedForm::int8 : PackedForm::bfloat16);
}

}  // namespace formwork

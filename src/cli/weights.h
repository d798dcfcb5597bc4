// The forms in which verbs let a model hold its weights.
#pragma once

#include <string>
#include <vector>

#include "core/processor.h"
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

/// The same for whole passes over many tokens, and what was done, in words: where the processor
/// multiplies bfloat16 the whole model becomes of that type, elsewhere its weights are packed.
inline std::string hold_for_passes(Model& model, const std::string& form) {
  const bool whole = form == "bfloat16" && multiplies_bfloat16();
  if (whole) model.to(at::kBFloat16);
  if (whole || form == "float32") {
    model.lay_out();
    return "all " + form;
  }
  hold_weights(model, form);
  return form + " weights, float32 products";
}

}  // namespace formwork

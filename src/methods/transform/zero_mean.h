// Step 1 of the conversion of Pre-LN models: the mean leaves the residual stream at its sources.
#pragma once

#include "methods/transform/steps.h"

namespace formwork {

/// How the conversion to RMS norms is done.
struct PreRmsOptions {
  std::string tied = "untie";
  std::string fold_affine = "auto";
  void describe(OptionSet& o);
};

/// The parts of the model with RMS norms in the place of its layer norms. Refuses what is not
/// Pre-LN.
ModelParts to_pre_rms(Module& model, const Value& options, const PreRmsOptions& how);

}  // namespace formwork

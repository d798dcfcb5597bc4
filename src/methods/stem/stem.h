// Axis "stem": how raw input becomes vectors.
#pragma once

#include "core/registry.h"
#include "methods/site.h"
#include "methods/stream.h"

namespace formwork {

/// What a task feeds to a model.
struct InputForm {
  enum class Kind { tokens, image, series, audio };
  Kind kind = Kind::tokens;
  int64_t vocabulary = 0;         // tokens: ids 0..vocabulary-1
  int64_t channels = 0;           // image, series
  int64_t height = 0, width = 0;  // image
  int64_t length = 0;             // tokens, series: longest; audio: samples
};
const char* kind_name(InputForm::Kind kind);

/// A stem's surroundings: the site and the input it must take.
struct StemSite : Site {
  InputForm input;
};

class Stem : public Module {
 public:
  static constexpr const char* kAxis = "stem";
  using Context = StemSite;
  struct Traits {
    InputForm::Kind takes = InputForm::Kind::tokens;
    bool causal = true;    // token i of the output depends on input up to i only
    bool patches = false;  // leaves what each token was made of in stream.carried["patches"]
  };

  /// tokens [B,N] int64; image [B,C,H,W]; series [B,N,C]; audio [B,S] → vectors [B,N',D]; may set
  /// stream.valid for the tokens it makes.
  virtual Tensor forward(const Tensor& input, Stream& stream) = 0;
  /// N' for an input of this length.
  virtual int64_t tokens(int64_t input_length) const { return input_length; }
  /// Numbers in a patch, for stems with the trait `patches`.
  virtual int64_t patch_width() const { return 0; }
  /// The table [V,D] that a tied head multiplies with, or undefined.
  virtual Tensor table() const { return {}; }
};

}  // namespace formwork

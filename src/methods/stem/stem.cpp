#include "methods/stem/stem.h"

namespace formwork {

const char* kind_name(InputForm::Kind kind) {
  switch (kind) {
    case InputForm::Kind::tokens:
      return "tokens";
    case InputForm::Kind::image:
      return "image";
    case InputForm::Kind::series:
      return "series";
    case InputForm::Kind::audio:
      return "audio";
  }
  return "unknown";
}

}  // namespace formwork

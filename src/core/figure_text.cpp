#include "core/figure_text.h"

#include <cstdio>

namespace formwork {

std::string figure_text(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

}  // namespace formwork

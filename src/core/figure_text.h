// Figures as people read them.
#pragma once

#include <string>

namespace formwork {

/// Four significant digits: "0.1235", "1.2e+06", "nan".
std::string figure_text(double value);

}  // namespace formwork

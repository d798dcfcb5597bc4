// The page of a comparison: one HTML file that opens without a network.
#pragma once

#include <string>

#include "core/value.h"

namespace formwork {

/// The page of a comparison's summary (docs/comparison-summary.md); what is null or absent because
/// runs are missing is shown as missing.
std::string comparison_page(const Value& summary);

}  // namespace formwork

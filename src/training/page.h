// Pages of plots: one HTML file that opens from disk without a network.
#pragma once

#include <string>
#include <string_view>

#include "core/value.h"

namespace formwork {

/// Fills a page's template: {{title}}, {{style}} (the look all pages share), {{data}} (JSON for a
/// <script>) and {{chart}} (the plotting library). Marks that the template lacks are left out.
std::string make_page(std::string_view page, const std::string& title, const Value& data);

}  // namespace formwork

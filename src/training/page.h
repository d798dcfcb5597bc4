// The pages that Formwork writes: templates filled with text, the style and script they share.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "core/value.h"

namespace formwork {

/// `page` with every {{name}} replaced by the text of that name. {{style}}, {{shared}} and
/// {{chart}} (page.css, page.js and Chart.js) need not be given. What is put in is not searched
/// again. Fails on a name that is not known.
std::string fill_page(std::string_view page, const std::map<std::string, std::string>& texts);

/// The page of a template that needs its {{title}} and {{data}} (JSON for a <script>).
std::string make_page(std::string_view page, const std::string& title, const Value& data);

/// The same shared files, for pages that link to them.
std::string_view page_style();
std::string_view page_script();
std::string_view chart_script();

/// JSON that may stand inside <script>: neither "</script" nor "<!--" can occur in it.
std::string for_script(const Value& value);
/// Text that may stand between tags and inside a quoted attribute.
std::string for_html(std::string_view text);

}  // namespace formwork

#include "training/page.h"

#include "core/error.h"
#include "formats/json.h"

namespace formwork {

namespace assets {
// Made by cmake/embed.cmake.
std::string_view chart_js();
std::string_view report_page();
}  // namespace assets

namespace {

/// JSON that may stand inside <script>: no "</script" or "<!--" can occur in it.
std::string for_script(const Value& value) {
  std::string out;
  for (const char c : write_json(value))
    out += c == '<' ? std::string("\\u003c") : std::string(1, c);
  return out;
}

std::string for_html(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '<' ? "&lt;" : c == '&' ? "&amp;" : std::string(1, c);
  return out;
}

void put(std::string& page, const std::string& mark, std::string_view text) {
  const size_t at = page.find(mark);
  if (at != std::string::npos) page.replace(at, mark.size(), text);
}

/// The rules between <style> and </style> of the run's report.
std::string_view shared_style() {
  const std::string_view page = assets::report_page();
  const size_t start = page.find("<style>") + 7, end = page.find("</style>");
  if (end == std::string_view::npos) fail("report.html", "its template has no </style>");
  return page.substr(start, end - start);
}

}  // namespace

std::string make_page(std::string_view page, const std::string& title, const Value& data) {
  std::string out(page);
  // The data last but one, and the title, which comes first: data may look like a mark itself.
  put(out, "{{chart}}", assets::chart_js());
  put(out, "{{style}}", shared_style());
  put(out, "{{data}}", for_script(data));
  put(out, "{{title}}", for_html(title));
  return out;
}

}  // namespace formwork

#include "training/page.h"

#include "core/error.h"
#include "formats/json.h"

namespace formwork {

namespace assets {
// Made by cmake/embed.cmake.
std::string_view chart_js();
std::string_view page_css();
std::string_view page_js();
}  // namespace assets

std::string_view page_style() {
  return assets::page_css();
}

std::string_view page_script() {
  return assets::page_js();
}

std::string_view chart_script() {
  return assets::chart_js();
}

std::string fill_page(std::string_view page, const std::map<std::string, std::string>& texts) {
  std::string out;
  while (true) {
    const size_t mark = page.find("{{");
    out += page.substr(0, mark);
    if (mark == std::string_view::npos) return out;
    const size_t end = page.find("}}", mark);
    const std::string name(page.substr(mark + 2, end - mark - 2));
    if (name == "style")
      out += page_style();
    else if (name == "shared")
      out += page_script();
    else if (name == "chart")
      out += chart_script();
    else if (const auto found = texts.find(name); found != texts.end())
      out += found->second;
    else
      fail("page template", "nothing was given for {{", name, "}}");
    page.remove_prefix(end + 2);
  }
}

std::string make_page(std::string_view page, const std::string& title, const Value& data) {
  return fill_page(page, {{"title", for_html(title)}, {"data", for_script(data)}});
}

std::string for_script(const Value& value) {
  std::string out;
  for (const char c : write_json(value))
    out += c == '<' ? std::string("\\u003c") : std::string(1, c);
  return out;
}

std::string for_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '&':
        out += "&amp;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace formwork

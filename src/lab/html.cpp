#include "lab/html.h"

#include <algorithm>

#include "training/page.h"

namespace formwork::html {
namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

/// Whether `text` from `at` on is an arXiv number such as 1910.07467; its length, or 0.
size_t arxiv_length(std::string_view text, size_t at) {
  if (at > 0 && (is_digit(text[at - 1]) || text[at - 1] == '.')) return 0;
  size_t length = 0;
  while (at + length < text.size() &&
         (length == 4 ? text[at + length] == '.' : is_digit(text[at + length])))
    ++length;
  return length >= 9 && length <= 10 ? length : 0;
}

}  // namespace

std::string tag(const std::string& name, const std::string& inside, const std::string& attributes) {
  return "<" + name + (attributes.empty() ? "" : " " + attributes) + ">" + inside + "</" + name +
         ">";
}

std::string cell(const std::string& inside, const std::string& kind) {
  return tag("td", inside, kind.empty() ? "" : "class=\"" + kind + "\"");
}

std::string code(std::string_view text) {
  return tag("code", for_html(text));
}

std::string card(const std::string& name, const std::string& inside, const std::string& kind,
                 const std::string& id) {
  const std::string attributes =
      "class=\"" + kind + "\"" + (id.empty() ? "" : " id=\"" + for_html(id) + "\"");
  return tag("section", tag("h2", name) + inside, attributes) + "\n";
}

std::string arxiv_number(std::string_view text) {
  for (size_t at = 0; at < text.size(); ++at)
    if (const size_t length = arxiv_length(text, at)) return std::string(text.substr(at, length));
  return "";
}

std::string linked(std::string_view text, bool named) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t length = arxiv_length(text, at);
    const std::string part(text.substr(at, std::max<size_t>(1, length)));
    out += length == 0 ? for_html(part)
                       : tag("a", (named ? "arXiv " : "") + part,
                             "href=\"https://arxiv.org/abs/" + part + "\"");
    at += part.size();
  }
  return out;
}

}  // namespace formwork::html

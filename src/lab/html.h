// Parts of pages as HTML text. What is said to be HTML is put in as it is.
#pragma once

#include <string>
#include <string_view>

namespace formwork::html {

/// <name attributes>inside</name>; `inside` and `attributes` are HTML.
std::string tag(const std::string& name, const std::string& inside,
                const std::string& attributes = "");
/// A cell of a table with HTML inside.
std::string cell(const std::string& inside, const std::string& kind = "");
/// Text in the face of code.
std::string code(std::string_view text);
/// A framed section; `name` and `inside` are HTML, `id` is text.
std::string card(const std::string& name, const std::string& inside,
                 const std::string& kind = "card", const std::string& id = "");
/// The first arXiv number (1910.07467) in a text, or "".
std::string arxiv_number(std::string_view text);
/// Text whose arXiv numbers become links, said to be arXiv's with `named`.
std::string linked(std::string_view text, bool named = false);

}  // namespace formwork::html

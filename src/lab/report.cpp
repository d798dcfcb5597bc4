#include "lab/report.h"

#include <string_view>

#include "core/error.h"
#include "training/page.h"

namespace formwork {

namespace assets {
// Made by cmake/embed.cmake.
std::string_view comparison_html();
std::string_view comparison_js();
std::string_view comparison_plots();
}  // namespace assets

std::string comparison_page(const Value& summary) {
  const Value* recipe = summary.find("recipe");
  const std::string* name = recipe ? recipe->get<std::string>() : nullptr;
  return fill_page(assets::comparison_html(),
                   {{"title", for_html(name ? *name : "Comparison")},
                    {"data", for_script(summary)},
                    {"script", join_text(assets::comparison_plots(), assets::comparison_js())}});
}

}  // namespace formwork

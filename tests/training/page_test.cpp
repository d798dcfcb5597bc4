#include "training/page.h"

#include <gtest/gtest.h>

#include "support/refusal.h"

namespace formwork {
namespace {

TEST(unit, page_is_filled_once) {
  EXPECT_EQ(fill_page("a {{x}} b {{y}}", {{"x", "{{y}}"}, {"y", "2"}}), "a {{y}} b 2");
  EXPECT_NE(fill_page("{{chart}}", {}).find("Chart.js"), std::string::npos);
  test::expect_error([] { fill_page("{{z}}", {{"x", "1"}}); }, Fault::failure, {"z"});
}

TEST(unit, page_text_is_harmless) {
  EXPECT_EQ(for_html("<a href=\"x\">'&"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;");
  EXPECT_EQ(for_script(Value("</script><!--")), "\"\\u003c/script>\\u003c!--\"");
}

}  // namespace
}  // namespace formwork

#include "lab/report.h"

#include <gtest/gtest.h>

#include "formats/json.h"
#include "support/temporary_folder.h"

namespace formwork {
namespace {

// tests/use/comparison_page_test.py opens what this writes in a browser.
TEST(unit, comparison_page) {
  const test::TemporaryFolder folder("FORMWORK_TEST_REPORT");
  std::string text = folder.read("summary.json");
  if (text.empty())
    text = R"({"recipe": "</title><b>", "variants": [{"name": "</script><b>bold"}]})";
  const std::string page = comparison_page(parse_json(text, "summary.json"));
  folder.write("report.html", page);
  for (const char* mark : {"{{style}}", "{{shared}}", "{{chart}}", "{{data}}", "{{script}}"})
    EXPECT_EQ(page.find(mark), std::string::npos) << mark;
  EXPECT_EQ(page.find("</script><b>"), std::string::npos);
  EXPECT_EQ(page.find("</title><b>"), std::string::npos);
  EXPECT_NE(page.find("Chart.js"), std::string::npos);
  for (const char* remote : {"src=\"http", "href=\"http", "url(http", "@import"})
    EXPECT_EQ(page.find(remote), std::string::npos) << remote;
}

TEST(unit, comparison_page_of_nothing) {
  EXPECT_NE(comparison_page(Value(Table{})).find("<title>Comparison</title>"), std::string::npos);
}

}  // namespace
}  // namespace formwork

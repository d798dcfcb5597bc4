#include "lab/method_pages.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <regex>

#include "lab/method_cost.h"
#include "lab/method_docs.h"
#include "lab/method_fit.h"
#include "support/refusal.h"
#include "support/temporary_folder.h"

namespace formwork {
namespace {

namespace fs = std::filesystem;

const MethodInfo& find_method(const std::string& axis, const std::string& name) {
  for (const MethodInfo* method : catalogue())
    if (method->axis == axis && method->name == name) return *method;
  throw std::runtime_error(axis + " " + name);
}

/// Why `a` and `b` do not go together, "" where they do.
std::string reason(const MethodInfo& a, const std::string& axis, const std::string& name) {
  for (const Fit& fit : fits_of(a))
    if (fit.other->axis == axis && fit.other->name == name) return fit.reason.value_or("");
  return "not tried";
}

TEST(unit, method_pages) {
  const test::TemporaryFolder folder;
  folder.write(
      "results/claims.json",
      R"([{"slug": "peri_ln", "statement": "<b>variance</b> stays", "verdict": "holds"}])");
  MethodPagesRequest request;
  request.folder = folder.file("site");
  request.results = folder.file("results");
  EXPECT_EQ(write_method_pages(request), static_cast<int64_t>(catalogue().size()));
  const std::regex links("(?:href|src)=\"([^\"#:]+)(#[^\"]*)?\"");
  size_t followed = 0;
  for (const auto& entry : fs::recursive_directory_iterator(request.folder)) {
    if (entry.path().extension() != ".html") continue;
    const std::string page = test::read_bytes(entry.path().string());
    for (std::sregex_iterator link(page.begin(), page.end(), links), end; link != end; ++link) {
      EXPECT_TRUE(fs::exists(entry.path().parent_path() / (*link)[1].str()))
          << entry.path() << " " << (*link)[1];
      ++followed;
    }
  }
  EXPECT_GT(followed, 10 * catalogue().size());
  for (const MethodInfo* method : catalogue())
    EXPECT_TRUE(fs::exists(folder.file("site/" + method->axis + "/" + method->name + ".html")));
  const std::string page = folder.read("site/wiring/peri.html");
  EXPECT_NE(page.find("&lt;b&gt;variance&lt;/b&gt; stays: <b>holds</b>"), std::string::npos);
  EXPECT_NE(page.find("tests/golden/peri_ln"), std::string::npos);
  EXPECT_NE(page.find("arxiv.org/abs/2502.02732"), std::string::npos);
  const std::string glu = folder.read("site/channel/glu.html");
  EXPECT_NE(glu.find("one of swiglu, geglu"), std::string::npos);  // a range
  EXPECT_NE(glu.find("[model.channel]"), std::string::npos);
  const std::string index = folder.read("site/index.html");  // one entry a paper
  const std::string by_paper = index.substr(index.find("id=\"by-paper\""));
  EXPECT_NE(by_paper.find(">arXiv 1706.03762</a></td>"), std::string::npos);
  EXPECT_EQ(by_paper.find("Vaswani et al. 2017"), std::string::npos);
  request.results = folder.file("none");
  test::expect_error([&] { write_method_pages(request); }, Fault::request,
                     {"claims.json", "--results"});
}

TEST(unit, method_comments) {
  EXPECT_NE(comment_of(find_method("norm", "rms_norm")).find("sqrt(mean(x²) + eps)"),
            std::string::npos);
  EXPECT_NE(comment_of(find_method("mixer", "local")).find("sliding"), std::string::npos);
  EXPECT_TRUE(has_golden("norm_baselines"));
  EXPECT_FALSE(has_golden(""));
  EXPECT_FALSE(has_golden("nothing_of_the_kind"));
}

TEST(unit, method_fits) {
  const MethodInfo& alibi = find_method("position", "alibi");
  EXPECT_EQ(reason(alibi, "mixer", "softmax"), "");
  EXPECT_NE(reason(alibi, "mixer", "linear").find("forms no pair scores"), std::string::npos);
  EXPECT_EQ(reason(alibi, "stem", "patch"), "");  // in an encoder of images
  EXPECT_EQ(reason(alibi, "position", "rotary"), "not tried");
  EXPECT_EQ(reason(alibi, "schedule", "cosine"), "not tried");
  const MethodInfo& schedule_free = find_method("optimizer", "schedule_free");
  EXPECT_EQ(reason(schedule_free, "schedule", "constant"), "");
  EXPECT_NE(reason(schedule_free, "schedule", "cosine").find("schedule of its own"),
            std::string::npos);
  EXPECT_EQ(default_of("norm"), "rms_norm");
  EXPECT_EQ(default_of("depth"), "unique");
  EXPECT_EQ(default_of("optimizer"), "adamw");
  EXPECT_EQ(default_of("constraint"), "");
  EXPECT_EQ(default_of("task"), "");
  EXPECT_TRUE(is_model_axis("depth"));
  EXPECT_FALSE(is_model_axis("schedule"));
}

TEST(unit, method_costs) {
  const auto cost = measure_cost(find_method("norm", "layer_norm"));
  ASSERT_TRUE(cost);
  EXPECT_EQ(cost->baseline, "rms_norm");
  EXPECT_EQ(cost->sizes.size(), cost->method.size());
  EXPECT_GT(cost->standard.back(), cost->standard.front());  // 256 tokens against 32
  const auto step = measure_cost(find_method("optimizer", "shampoo"));
  ASSERT_TRUE(step);
  EXPECT_GT(step->method.back(), 2 * step->standard.back());  // it takes roots of matrices
  EXPECT_FALSE(measure_cost(find_method("stem", "patch")));
  EXPECT_FALSE(measure_cost(find_method("schedule", "cosine")));
}

}  // namespace
}  // namespace formwork

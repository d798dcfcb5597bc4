#include "support/dynamic.h"

#include <gtest/gtest.h>

#include <fstream>
#include <utility>

#include "core/error.h"

namespace formwork::test {
namespace {

// Function-local, so that file-scope objects of other files may use them in any order.
std::vector<std::function<void()>>& sources() {
  static std::vector<std::function<void()>> list;
  return list;
}

std::map<std::string, TestNeeds>& all_needs() {
  static std::map<std::string, TestNeeds> needs;
  return needs;
}

class FunctionTest final : public testing::Test {
 public:
  explicit FunctionTest(std::function<void()> body) : body_(std::move(body)) {}
  void TestBody() override { body_(); }

 private:
  std::function<void()> body_;
};

// GoogleTest's filter gives '-', ':' and '*' a meaning; '?' stands for any one character.
std::string as_filter(std::string name) {
  for (char& c : name)
    if (c == '-' || c == ':' || c == '*') c = '?';
  return name;
}

// A CMake bracket argument takes any text.
std::string bracket(const std::string& text) {
  return "[==[" + text + "]==]";
}

void write_test(std::ostream& out, const std::string& name, const std::string& program) {
  const auto found = all_needs().find(name);
  const TestNeeds needs = found == all_needs().end() ? TestNeeds{} : found->second;
  out << "add_test(" << bracket(name) << ' ' << bracket(program) << ' '
      << bracket("--gtest_filter=" + as_filter(name)) << ")\n"
      << "set_tests_properties(" << bracket(name) << " PROPERTIES LABELS "
      << (needs.slow ? "slow TIMEOUT ${slow_timeout} COST 100" : "fast TIMEOUT ${fast_timeout}")
      << " PROCESSORS " << needs.processors << " SKIP_REGULAR_EXPRESSION "
      << bracket("\n\\[  SKIPPED \\] ")
      << " WORKING_DIRECTORY \"${binary}\" ENVIRONMENT \"${environment};OMP_NUM_THREADS="
      << needs.processors << "\")\n";
}

}  // namespace

void add_test(const std::string& suite, const std::string& name, std::function<void()> body,
              TestNeeds needs) {
  all_needs()[suite + "." + name] = needs;
  testing::RegisterTest(
      suite.c_str(), name.c_str(), nullptr, nullptr, __FILE__, __LINE__,
      [body = std::move(body)]() -> testing::Test* { return new FunctionTest(body); });
}

TestSource::TestSource(std::function<void()> add_tests) {
  sources().push_back(std::move(add_tests));
}

Needs::Needs(const std::string& full_name, TestNeeds needs) {
  all_needs()[full_name] = needs;
}

void run_test_sources() {
  for (const auto& source : std::exchange(sources(), {})) source();
}

void write_ctest_file(const std::string& path, const std::string& program) {
  std::ofstream out(path);
  const testing::UnitTest& all = *testing::UnitTest::GetInstance();
  for (int i = 0; i < all.total_test_suite_count(); ++i) {
    const testing::TestSuite& suite = *all.GetTestSuite(i);
    for (int j = 0; j < suite.total_test_count(); ++j)
      write_test(out, std::string(suite.name()) + "." + suite.GetTestInfo(j)->name(), program);
  }
  out.close();
  if (!out) fail(path, "the list of tests could not be written there");
}

}  // namespace formwork::test

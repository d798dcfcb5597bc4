// The tests of the tests' own machinery: names made at run time reach ctest as they are.
#include "support/dynamic.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

namespace formwork::test {
namespace {

const Needs needs("unit.test_names", {.slow = false, .processors = 2});

const TestSource dynamic([] {
  add_test("unit.test_support", "dotted.name-with [brackets]:x", [] { SUCCEED(); });
});

TEST(unit, test_names) {
  const std::string path = testing::TempDir() + "formwork_test_names.cmake";
  write_ctest_file(path, "program");
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  std::filesystem::remove(path);
  EXPECT_NE(text.str().find("add_test([==[unit.test_support.dotted.name-with [brackets]:x]==]"),
            std::string::npos);
  EXPECT_NE(text.str().find("--gtest_filter=unit.test_support.dotted.name?with [brackets]?x"),
            std::string::npos);
  const size_t own = text.str().find("set_tests_properties([==[unit.test_names]==]");
  ASSERT_NE(own, std::string::npos);
  EXPECT_NE(text.str().find("PROCESSORS 2", own), std::string::npos);
}

}  // namespace
}  // namespace formwork::test

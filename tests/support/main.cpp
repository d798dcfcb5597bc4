// The tests' main(): registers what only the running program knows, then lists or runs tests.
#include <gtest/gtest.h>

#include <cstdio>
#include <exception>
#include <string_view>

#include "support/dynamic.h"

int main(int argc, char** argv) {
  try {
    formwork::test::run_test_sources();
    testing::InitGoogleTest(&argc, argv);
    constexpr std::string_view kWrite = "--write_ctest_file=";
    for (int i = 1; i < argc; ++i) {
      const std::string_view argument = argv[i];
      if (!argument.starts_with(kWrite)) continue;
      formwork::test::write_ctest_file(std::string(argument.substr(kWrite.size())), argv[0]);
      return 0;
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "formwork_tests: %s\n", error.what());
    return 1;
  }
  return RUN_ALL_TESTS();
}

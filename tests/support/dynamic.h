// Tests that are made while the program runs, and what ctest is told of a test.
//
//   TEST(unit, random) { ... }                                  // unit.random, as ever
//
//   const TestSource contracts([] {                             // contract.mixer.<method>
//     for (const MethodInfo* method : catalogue())
//       add_test("contract." + method->axis, method->name, [method] { EXPECT_TRUE(...); });
//   });
#pragma once

#include <functional>
#include <string>

namespace formwork::test {

/// What ctest has to know of a test: its label and time limit (fast: 300 s, slow: 1200 s) and how
/// many processors, so how many threads of libtorch, it gets.
struct TestNeeds {
  bool slow = false;
  int processors = 1;
};

/// Registers the test `suite`.`name` (suite may hold dots; the name is what `ctest -R` and the
/// report show). Legal inside a TestSource only: later is too late for GoogleTest.
void add_test(const std::string& suite, const std::string& name, std::function<void()> body,
              TestNeeds needs = {});

/// A file-scope object whose function runs in main() before the tests are listed, when all
/// registries are complete.
class TestSource {
 public:
  explicit TestSource(std::function<void()> add_tests);
};

/// A file-scope object that says what the test `full_name` ("unit.random"), written with TEST,
/// needs.
class Needs {
 public:
  Needs(const std::string& full_name, TestNeeds needs);
};

/// Runs every TestSource once.
void run_test_sources();

/// Writes the file of add_test() commands that ctest reads; `program` is the path of this program.
/// Throws an Error where the file cannot be written.
void write_ctest_file(const std::string& path, const std::string& program);

}  // namespace formwork::test

// Every method's options: what is out of range is refused by the key's name, what is unknown too,
// and writing and reading again changes nothing.
#include <gtest/gtest.h>

#include "core/registry.h"
#include "support/dynamic.h"

namespace formwork::test {
namespace {

std::string refusal(Options& options, const Table& table) {
  OptionSet set;
  options.describe(set);
  try {
    set.read(Value(table), "it");
  } catch (const Error& error) {
    EXPECT_EQ(error.fault(), Fault::request);
    return error.what();
  }
  return "";
}

/// A value that the range, as it is documented, does not hold; null for open ranges.
Value outside(const OptionInfo& info) {
  if (info.range.empty()) return {};
  const bool list = info.type.rfind("list", 0) == 0;
  const bool word = info.type.find("string") != std::string::npos;
  const Value bad = word ? Value("no such word") : Value(int64_t{-1000000});
  return list ? Value(List{bad}) : bad;
}

void options_contract(const MethodInfo& method) {
  const std::unique_ptr<Options> options = method.make_options();
  OptionSet described;
  options->describe(described);
  for (const OptionInfo& info : described.document()) {
    EXPECT_FALSE(info.help.empty()) << info.key;
    if (info.type.rfind("table", 0) == 0) continue;
    const std::unique_ptr<Options> fresh = method.make_options();
    const Value bad = outside(info);
    if (!bad.is_null()) {
      EXPECT_NE(refusal(*fresh, {{info.key, bad}}).find("it." + info.key), std::string::npos)
          << info.key;
    }
    EXPECT_NE(refusal(*fresh, {{info.key, Value(Table{})}}).find("it." + info.key),
              std::string::npos)
        << info.key << " takes a table";
  }
  EXPECT_NE(refusal(*options, {{"no_such_key", Value(true)}}).find("no_such_key"),
            std::string::npos);
  const Value written = described.write();
  const std::unique_ptr<Options> again = method.make_options();
  OptionSet reader;
  again->describe(reader);
  reader.read(written, "it");
  EXPECT_EQ(reader.write().text(), written.text());
}

const TestSource options_contracts([] {
  for (const MethodInfo* method : catalogue())
    add_test("contract.options." + method->axis, method->name,
             [method] { options_contract(*method); });
});

TEST(unit, catalogue_is_complete) {
  check_catalogue();
  for (const MethodInfo* method : catalogue()) {
    EXPECT_FALSE(method->summary.empty()) << method->name;
    EXPECT_FALSE(method->paper.empty()) << method->name;
  }
}

}  // namespace
}  // namespace formwork::test

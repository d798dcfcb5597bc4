#include "formats/json.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/refusal.h"

namespace formwork {
namespace {

TEST(unit, json_round_trip) {
  const std::string text =
      R"({"z":1,"a":[true,null,-2.5,"q\"\\\né"],"big":9223372036854775807,"real":2.0,"t":{}})";
  EXPECT_EQ(write_json(parse_json(text, "x")), text);
  for (const double number : {0.1, 1.0 / 3, 1e-310, 1.7976931348623157e308, -0.0, 123456789.0}) {
    const Value back = parse_json(write_json(number), "x");
    ASSERT_TRUE(back.get<double>()) << number;
    EXPECT_EQ(*back.get<double>(), number);
    EXPECT_EQ(std::signbit(*back.get<double>()), std::signbit(number));
  }
  EXPECT_EQ(write_json(std::numeric_limits<double>::infinity()), "null");
  EXPECT_EQ(write_json(std::nan("")), "null");
  EXPECT_EQ(write_json("broken \xff text"), "\"broken \xef\xbf\xbd text\"");
  EXPECT_EQ(write_json(List{int64_t{1}}, 2), "[\n  1\n]");
}

TEST(fault, json_names_the_byte) {
  test::expect_error([] { parse_json("{\"a\": 1, }", "m.json"); }, Fault::request,
                     {"m.json", "byte 10"});
  test::expect_error([] { parse_json("", "m.json"); }, Fault::request,
                     {"m.json", "not valid JSON"});
  test::expect_error([] { parse_json("1e999", "m.json"); }, Fault::request, {"m.json"});
}

}  // namespace
}  // namespace formwork

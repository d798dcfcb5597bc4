#include "data/table.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "data/calendar.h"
#include "data/refusal.h"

namespace formwork {
namespace {

NumberTable parse(const std::string& text, const TableOptions& options = {}) {
  Problems strict;
  return parse_table(text, "t.csv", options, strict);
}

TEST(unit, table_columns_and_dates) {
  const NumberTable table = parse(
      "date,a,\"b, c\"\r\n2016-07-01 00:00:00,1.5,-2e1\r\n2016-07-01 01:00:00, +3 ,4\n\n"
      "2016-07-01 02:00:00,5,6");
  EXPECT_EQ(table.columns, (std::vector<std::string>{"a", "b, c"}));
  EXPECT_EQ(table.values, (std::vector<double>{1.5, -20, 3, 4, 5, 6}));
  EXPECT_EQ(table.seconds[0], 1467331200);
  EXPECT_EQ(table.step_seconds(), 3600);
  EXPECT_EQ(table.column("b, c"), 1);
  EXPECT_REFUSED(table.column("z"), "the columns are a, b, c");
  EXPECT_EQ(parse("a,b\n1,2\n", {"", Missing::refuse, ','}).rows(), 1);
}

TEST(unit, table_missing_values) {
  const std::string text = "date,a\n2020-01-01,\n2020-01-02,2\n2020-01-03,NaN\n2020-01-04,4\n";
  EXPECT_REFUSED(parse(text), "t.csv:2:12: the value of column \"a\" is missing");
  EXPECT_EQ(parse(text, {"date", Missing::previous, ','}).values,
            (std::vector<double>{2, 2, 2, 4}));
  EXPECT_EQ(parse(text, {"date", Missing::mean, ','}).values, (std::vector<double>{3, 2, 3, 4}));
  EXPECT_REFUSED(parse("date,a\n2020-01-01,\n", {"date", Missing::mean, ','}), "no value at all");
}

TEST(unit, table_splits) {
  const TableSplit ett = split_ett(17420, 3600, 96);
  EXPECT_EQ(ett.train.begin, 0);
  EXPECT_EQ(ett.train.end, 8640);
  EXPECT_EQ(ett.validation.begin, 8640 - 96);
  EXPECT_EQ(ett.validation.end, 11520);
  EXPECT_EQ(ett.test.begin, 11520 - 96);
  EXPECT_EQ(ett.test.end, 14400);
  EXPECT_EQ(split_ett(69680, 900, 0).test.end, 57600);
  EXPECT_REFUSED(split_ett(100, 3600, 0), "20 months of 30 days need 14400 rows");
  const TableSplit parts = split_fractions(100, 0.7, 0.1, 5);
  EXPECT_EQ(parts.train.end, 70);
  EXPECT_EQ(parts.validation.begin, 65);
  EXPECT_EQ(parts.validation.end, 80);
  EXPECT_EQ(parts.test.begin, 75);
  EXPECT_EQ(parts.test.end, 100);
  EXPECT_REFUSED(split_fractions(100, 0.7, 0.4, 5), "at most 1");
  EXPECT_REFUSED(split_fractions(100, 0.1, 0.1, 11), "does not fit");
}

TEST(unit, table_scaling) {
  NumberTable table = parse("date,a,b\n2020-01-01,1,5\n2020-01-02,3,5\n2020-01-03,100,5\n");
  const Scaling scaling = fit_scaling(table, {0, 2});
  EXPECT_EQ(scaling.mean, (std::vector<double>{2, 5}));
  EXPECT_EQ(scaling.deviation, (std::vector<double>{1, 1}));
  const std::vector<double> before = table.values;
  scaling.apply(table.values);
  EXPECT_EQ(table.values, (std::vector<double>{-1, 0, 1, 0, 98, 0}));
  scaling.revert(table.values);
  EXPECT_EQ(table.values, before);
  EXPECT_REFUSED(fit_scaling(table, {0, 4}), "not a part of a table of 3");
}

TEST(unit, table_calendar) {
  EXPECT_EQ(parse_date("1970-01-01"), 0);
  EXPECT_EQ(parse_date("2000/03/01T00:00:01.25Z"), 951868801);
  EXPECT_EQ(parse_date("1969-12-31 23:59"), -60);
  for (const char* bad : {"", "2020", "2020-13-01", "2021-02-29", "2020-1-1", "2020-01/01",
                          "2020-01-01 24:00:00", "2020-01-01 10", "2020-01-01x",
                          "2020-01-01 10:00:", "0000-01-01", "2020-01-01 10:00:00."}) {
    EXPECT_FALSE(parse_date(bad).has_value()) << bad;
  }
  const Calendar at = calendar_of(*parse_date("2016-12-31 23:05:06"));
  EXPECT_EQ(at.year, 2016);
  EXPECT_EQ(at.month, 12);
  EXPECT_EQ(at.day, 31);
  EXPECT_EQ(at.hour, 23);
  EXPECT_EQ(at.minute, 5);
  EXPECT_EQ(at.second, 6);
  EXPECT_EQ(at.weekday, 5);  // a Saturday
  EXPECT_EQ(at.day_of_year, 366);
  EXPECT_EQ(calendar_of(-1).hour, 23);
  EXPECT_EQ(calendar_of(-1).weekday, 2);
  EXPECT_EQ(calendar_features(*parse_date("2018-01-07 23:59:00"), true),
            (std::vector<float>{0.5f, 0.5f, 0.5f, 6 / 30.f - 0.5f, 6 / 365.f - 0.5f}));
}

TEST(fault, table_problems_have_their_place) {
  EXPECT_REFUSED(parse(""), "t.csv: is empty");
  EXPECT_REFUSED(parse("a,b\n1,2\n"), "t.csv:1: there is no column \"date\"");
  EXPECT_REFUSED(parse("date\n2020-01-01\n"), "no numeric column");
  EXPECT_REFUSED(parse("date,a,a\n"), "t.csv:1:8: the column name \"a\" occurs twice");
  EXPECT_REFUSED(parse("date,a,\n"), "t.csv:1:8: a column has no name");
  EXPECT_REFUSED(parse("2020-01-01,3\n"), "the first line must be a header");
  EXPECT_REFUSED(parse("date,a\n2020-01-01,1,2\n"), "t.csv:2: has 3 columns, the header has 2");
  EXPECT_REFUSED(parse("date,a\n2020-01-01,1x\n"), "t.csv:2:12: \"1x\" in column \"a\" is not");
  EXPECT_REFUSED(parse("date,a\n2020-01-01,inf\n"), "is not a number");
  EXPECT_REFUSED(parse("date,a\n2020-02-30,1\n"), "t.csv:2:1: \"2020-02-30\" is not a date");
  EXPECT_REFUSED(parse("date,a\n2020-02-03,1\n2020-02-03,1\n"),
                 "t.csv:3:1: \"2020-02-03\" is not l");
  EXPECT_REFUSED(parse("date,a\n\"2020-02-03\"x,1\n"), "t.csv:2:13: a closing quote is followed");
}

}  // namespace
}  // namespace formwork

// Dates in the proleptic Gregorian calendar, without time zones.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace formwork {

struct Calendar {
  int64_t year = 1970;
  int64_t month = 1;  // 1..12
  int64_t day = 1;    // 1..31
  int64_t hour = 0;
  int64_t minute = 0;
  int64_t second = 0;
  int64_t weekday = 3;      // Monday 0 .. Sunday 6
  int64_t day_of_year = 1;  // 1..366
};

/// Seconds since 1970-01-01 00:00:00 of "YYYY-MM-DD" or "YYYY-MM-DD HH:MM[:SS[.fraction]]"; the
/// date may use '/', the two parts may be joined by 'T', a final 'Z' is allowed, the fraction is
/// dropped. Nothing for anything else, such as February 30.
std::optional<int64_t> parse_date(std::string_view text);

/// The calendar of a moment in years 1 to 9999.
Calendar calendar_of(int64_t epoch_seconds);

/// Features in [-.5, .5], finest first: [minute/59,] hour/23, weekday/6, (day-1)/30,
/// (day of year-1)/365, each minus .5 (GluonTS' convention, as the forecasting literature uses it).
std::vector<float> calendar_features(int64_t epoch_seconds, bool minutes);

}  // namespace formwork

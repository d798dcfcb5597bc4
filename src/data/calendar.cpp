#include "data/calendar.h"

#include <chrono>
#include <optional>
#include <string_view>
#include <vector>

namespace formwork {
namespace {

/// Takes exactly `digits` digits from the front of `text`.
bool take_number(std::string_view& text, size_t digits, int64_t& out) {
  if (text.size() < digits) return false;
  out = 0;
  for (size_t i = 0; i < digits; ++i) {
    if (text[i] < '0' || text[i] > '9') return false;
    out = out * 10 + (text[i] - '0');
  }
  text.remove_prefix(digits);
  return true;
}

bool take(std::string_view& text, std::string_view one_of) {
  if (text.empty() || one_of.find(text[0]) == std::string_view::npos) return false;
  text.remove_prefix(1);
  return true;
}

/// "HH:MM[:SS[.fraction]]" in full.
bool take_time(std::string_view text, Calendar& at) {
  if (!take_number(text, 2, at.hour) || !take(text, ":")) return false;
  if (!take_number(text, 2, at.minute)) return false;
  if (take(text, ":")) {
    if (!take_number(text, 2, at.second)) return false;
    int64_t digit = 0;
    if (take(text, ".")) {
      if (!take_number(text, 1, digit)) return false;
      while (take_number(text, 1, digit)) {
      }
    }
  }
  take(text, "Z");
  return text.empty() && at.hour < 24 && at.minute < 60 && at.second < 60;
}

}  // namespace

std::optional<int64_t> parse_date(std::string_view text) {
  Calendar at;
  if (!take_number(text, 4, at.year)) return std::nullopt;
  const std::string_view separator = text.substr(0, 1);
  if (separator != "-" && separator != "/") return std::nullopt;
  text.remove_prefix(1);
  if (!take_number(text, 2, at.month) || !take(text, separator)) return std::nullopt;
  if (!take_number(text, 2, at.day)) return std::nullopt;
  if (!text.empty() && (!take(text, " T") || !take_time(text, at))) return std::nullopt;

  const std::chrono::year_month_day date{std::chrono::year(static_cast<int>(at.year)),
                                         std::chrono::month(static_cast<unsigned>(at.month)),
                                         std::chrono::day(static_cast<unsigned>(at.day))};
  if (at.year < 1 || !date.ok()) return std::nullopt;
  const int64_t days = std::chrono::sys_days(date).time_since_epoch().count();
  return ((days * 24 + at.hour) * 60 + at.minute) * 60 + at.second;
}

Calendar calendar_of(int64_t epoch_seconds) {
  using std::chrono::sys_days;
  const std::chrono::sys_seconds moment{std::chrono::seconds(epoch_seconds)};
  const sys_days day = std::chrono::floor<std::chrono::days>(moment);
  const std::chrono::year_month_day date(day);
  const int64_t seconds = (moment - day).count();
  Calendar at;
  at.year = int{date.year()};
  at.month = unsigned{date.month()};
  at.day = unsigned{date.day()};
  at.hour = seconds / 3600;
  at.minute = seconds / 60 % 60;
  at.second = seconds % 60;
  at.weekday = std::chrono::weekday(day).iso_encoding() - 1;
  at.day_of_year = (day - sys_days(date.year() / std::chrono::January / 1)).count() + 1;
  return at;
}

std::vector<float> calendar_features(int64_t epoch_seconds, bool minutes) {
  const Calendar at = calendar_of(epoch_seconds);
  std::vector<float> features;
  const auto add = [&](int64_t value, int64_t largest) {
    features.push_back(static_cast<float>(value) / static_cast<float>(largest) - 0.5f);
  };
  if (minutes) add(at.minute, 59);
  add(at.hour, 23);
  add(at.weekday, 6);
  add(at.day - 1, 30);
  add(at.day_of_year - 1, 365);
  return features;
}

}  // namespace formwork

#include "training/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace formwork {
namespace {

std::string printed(const char* format, double number) {
  char text[64];
  std::snprintf(text, sizeof text, format, number);
  return text;
}

bool set_in_environment(const char* name) {
  const char* value = std::getenv(name);
  return value && *value;
}

bool speaks_utf8() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    if (!set_in_environment(name)) continue;
    std::string value = std::getenv(name);
    for (char& c : value) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return value.find("utf-8") != std::string::npos || value.find("utf8") != std::string::npos;
  }
  return false;
}

/// `columns` columns, of which `fraction` are full.
std::string bar(double fraction, int64_t columns, const ProgressStyle& style) {
  std::string full, empty;
  const double filled = std::clamp(fraction, 0.0, 1.0) * static_cast<double>(columns);
  const auto whole = static_cast<int64_t>(filled);
  if (!style.unicode) {
    full.assign(whole, '#');
    empty.assign(columns - whole, '.');
  } else {
    static const char* const kEighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    for (int64_t i = 0; i < whole; ++i) full += "█";
    const char* part = kEighths[static_cast<int>((filled - static_cast<double>(whole)) * 8)];
    full += part;
    empty.assign(columns - whole - (*part ? 1 : 0), ' ');
  }
  if (style.colour) full = "\x1b[36m" + full + "\x1b[0m";
  return (style.unicode ? "▕" : "[") + full + empty + (style.unicode ? "▏" : "]");
}

/// The parts of a line behind the bar, the most important first.
std::vector<std::string> parts_of(const ProgressState& state, double left) {
  std::vector<std::string> parts;
  if (state.loss) parts.push_back("loss " + printed("%.4f", *state.loss));
  if (left >= 0) parts.push_back(duration_text(left) + " left");
  if (state.tokens_per_second) parts.push_back(count_text(*state.tokens_per_second) + " tokens/s");
  if (state.memory_bytes > 0) parts.push_back(bytes_text(state.memory_bytes));
  return parts;
}

std::string steps_text(const ProgressState& state) {
  const std::string step = std::to_string(state.step);
  if (state.total <= 0) return "step " + step;
  const std::string total = std::to_string(state.total);
  // The width stays as steps get more digits.
  return std::string(total.size() - std::min(total.size(), step.size()), ' ') + step + "/" + total;
}

double fraction_of(const ProgressState& state) {
  if (state.fraction > 0 || state.total <= 0) return std::clamp(state.fraction, 0.0, 1.0);
  return std::clamp(static_cast<double>(state.step) / static_cast<double>(state.total), 0.0, 1.0);
}

}  // namespace

std::string duration_text(double seconds) {
  const auto s = static_cast<int64_t>(std::llround(std::clamp(seconds, 0.0, 1e11)));
  char text[48];
  if (s < 60)
    std::snprintf(text, sizeof text, "%ds", static_cast<int>(s));
  else if (s < 3600)
    std::snprintf(text, sizeof text, "%dm %02ds", static_cast<int>(s / 60),
                  static_cast<int>(s % 60));
  else if (s < 86400)
    std::snprintf(text, sizeof text, "%dh %02dm", static_cast<int>(s / 3600),
                  static_cast<int>(s / 60 % 60));
  else
    std::snprintf(text, sizeof text, "%lldd %02dh", static_cast<long long>(s / 86400),
                  static_cast<int>(s / 3600 % 24));
  return text;
}

std::string bytes_text(int64_t bytes) {
  const auto number = static_cast<double>(bytes);
  return bytes < 1'000'000'000 ? printed("%.0f MB", number / 1e6)
                               : printed("%.2f GB", number / 1e9);
}

std::string count_text(double count) {
  const double size = std::abs(count);
  if (size < 999.5) return printed("%.0f", count);
  const char* unit = size < 999.5e3 ? "k" : size < 999.5e6 ? "M" : "G";
  const double shown = count / (*unit == 'k' ? 1e3 : *unit == 'M' ? 1e6 : 1e9);
  return printed(std::abs(shown) < 9.995   ? "%.2f"
                 : std::abs(shown) < 99.95 ? "%.1f"
                                           : "%.0f",
                 shown) +
         unit;
}

std::string progress_line(const ProgressState& state, const ProgressStyle& style, double left) {
  const double fraction = fraction_of(state);
  std::string text = steps_text(state);
  const std::string percent = printed("%3.0f%%", std::floor(100 * fraction));
  if (!style.terminal) {
    text += " " + percent;
    for (const std::string& part : parts_of(state, left)) text += "  " + part;
    return text;
  }
  // The last column stays free: some terminals break the line there.
  int64_t room = std::max<int64_t>(style.width - 1, 0);
  std::string tail = " " + percent;
  room -= static_cast<int64_t>(text.size() + tail.size());
  if (room < 0) return text.substr(0, std::max<int64_t>(style.width - 1, 0));
  constexpr int64_t kLeastBar = 8, kMostBar = 32, kFrame = 3;  // a space and two ends
  const int64_t for_bar = room >= 40 ? kLeastBar + kFrame : 0;
  for (const std::string& part : parts_of(state, left)) {
    const auto size = static_cast<int64_t>(part.size()) + 2;
    if (size > room - for_bar) continue;
    tail += "  " + part;
    room -= size;
  }
  if (room >= kLeastBar + kFrame)
    text += " " + bar(fraction, std::min(room - kFrame, kMostBar), style);
  return text + tail;
}

ProgressStyle ProgressStyle::of(int descriptor) {
  ProgressStyle style;
  const char* term = std::getenv("TERM");
  style.terminal = ::isatty(descriptor) && term && std::string_view(term) != "dumb";
  style.colour = style.terminal && !set_in_environment("NO_COLOR");
  style.unicode = style.terminal && speaks_utf8();
  winsize size{};
  if (style.terminal && ::ioctl(descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
    style.width = size.ws_col;
  return style;
}

ProgressDisplay::ProgressDisplay(ProgressStyle style, std::function<void(std::string_view)> write)
    : style_(style), write_(std::move(write)) {}

ProgressDisplay::~ProgressDisplay() {
  clear();
}

bool ProgressDisplay::due(double seconds) const {
  if (!shown_at_) return true;
  // A log of a work of hours does not need a line every ten seconds.
  const double wait = style_.terminal ? 0.1 : std::max(10.0, seconds / 100);
  return seconds - *shown_at_ >= wait;
}

void ProgressDisplay::update(const ProgressState& state) {
  if (!first_) first_ = state;
  state_ = state;
  if (!due(state.seconds)) return;
  shown_at_ = state.seconds;
  draw();
}

void ProgressDisplay::draw() {
  const double done = fraction_of(state_) - fraction_of(*first_);
  const double spent = state_.seconds - first_->seconds;
  const double left = done > 0 && spent > 0 ? (1 - fraction_of(state_)) * spent / done : -1;
  const std::string text = progress_line(state_, style_, left);
  if (style_.terminal)
    write_("\r" + text + "\x1b[K");
  else
    write_(text + "\n");
  drawn_ = style_.terminal;
}

void ProgressDisplay::clear() {
  if (drawn_) write_("\r\x1b[K");
  drawn_ = false;
}

void ProgressDisplay::line(std::string_view text) {
  const bool again = drawn_;
  clear();
  write_(std::string(text) + "\n");
  if (again) draw();
}

void ProgressDisplay::finish() {
  if (!first_) return;
  const bool in_place = drawn_;
  if (in_place || shown_at_ != state_.seconds) draw();
  if (in_place) write_("\n");
  drawn_ = false;
  first_.reset();
}

}  // namespace formwork

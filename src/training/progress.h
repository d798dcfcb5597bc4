// How far a long piece of work is: one line redrawn on a terminal, plain lines elsewhere.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace formwork {

/// What to show of a training; what is unknown is left out.
struct ProgressState {
  int64_t step = 0;
  int64_t total = 0;    ///< steps in all; 0 where the budget is not in steps
  double fraction = 0;  ///< of the budget used, 0 to 1, whatever it is counted in
  double seconds = 0;   ///< since this process began the work
  std::optional<double> loss;
  std::optional<double> tokens_per_second;
  int64_t memory_bytes = 0;
};

/// How a stream takes text.
struct ProgressStyle {
  bool terminal = false;  ///< lines can be redrawn
  bool colour = false;
  bool unicode = false;  ///< the bar may be drawn with blocks
  int64_t width = 80;    ///< columns
  /// What the stream behind a file descriptor can do: a terminal other than TERM=dumb; colours
  /// unless NO_COLOR is set; the width it has now.
  static ProgressStyle of(int descriptor);
};

/// Shows progress through `write`, which gets whole pieces of text (this library never prints).
class ProgressDisplay {
 public:
  ProgressDisplay(ProgressStyle style, std::function<void(std::string_view)> write);
  /// Takes the bar away.
  ~ProgressDisplay();
  ProgressDisplay(const ProgressDisplay&) = delete;
  ProgressDisplay& operator=(const ProgressDisplay&) = delete;

  /// Shows the state: on a terminal at most ten times a second, elsewhere one line every 10 s, or
  /// more rarely when the work takes hours.
  void update(const ProgressState& state);
  /// A line that stays, such as an evaluation or a warning; the bar goes on below it.
  void line(std::string_view text);
  /// The last state as a line that stays; nothing where none was shown.
  void finish();
  /// The terminal was resized.
  void set_width(int64_t columns) { style_.width = columns; }

 private:
  bool due(double seconds) const;
  void clear();
  void draw();

  ProgressStyle style_;
  std::function<void(std::string_view)> write_;
  ProgressState state_;
  std::optional<ProgressState> first_;  // a resumed work does not start at 0
  std::optional<double> shown_at_;
  bool drawn_ = false;
};

/// One line for a state, at most `style.width` - 1 columns wide on a terminal, without an end of
/// line. `left` is the time left in seconds, negative where it is unknown.
std::string progress_line(const ProgressState& state, const ProgressStyle& style, double left);

/// "45s", "3m 20s", "2h 05m", "3d 04h".
std::string duration_text(double seconds);
/// "812 MB", "1.52 GB" (powers of 1000).
std::string bytes_text(int64_t bytes);
/// "950", "52.1k", "1.20M".
std::string count_text(double count);

}  // namespace formwork

#include "training/progress.h"

#include <gtest/gtest.h>

#include <fstream>
#include <vector>

#include "support/temporary_folder.h"

namespace formwork {
namespace {

ProgressState state(int64_t step, double seconds) {
  ProgressState made;
  made.step = step;
  made.total = 2000;
  made.seconds = seconds;
  made.loss = 2.34567;
  made.tokens_per_second = 52'100;
  made.memory_bytes = 812'000'000;
  return made;
}

int64_t columns(const std::string& text) {
  int64_t count = 0;
  for (const char c : text) count += (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  return count;
}

TEST(unit, progress_numbers) {
  EXPECT_EQ(duration_text(45), "45s");
  EXPECT_EQ(duration_text(59.6), "1m 00s");
  EXPECT_EQ(duration_text(200), "3m 20s");
  EXPECT_EQ(duration_text(7500), "2h 05m");
  EXPECT_EQ(duration_text(273600), "3d 04h");
  EXPECT_EQ(bytes_text(812'000'000), "812 MB");
  EXPECT_EQ(bytes_text(1'520'000'000), "1.52 GB");
  EXPECT_EQ(count_text(950), "950");
  EXPECT_EQ(count_text(999.6), "1.00k");
  EXPECT_EQ(count_text(52'100), "52.1k");
  EXPECT_EQ(count_text(1'200'000), "1.20M");
}

TEST(unit, progress_line_fits_every_width) {
  for (const bool unicode : {false, true}) {
    for (int64_t width = 1; width <= 200; ++width) {
      const std::string line = progress_line(state(312, 60), {true, false, unicode, width}, 324);
      EXPECT_LE(columns(line), width - 1) << line;
      EXPECT_EQ(line.find('\x1b'), std::string::npos);
    }
  }
  const std::string wide = progress_line(state(312, 60), {true, false, false, 120}, 324);
  EXPECT_EQ(wide,
            " 312/2000 [####............................]  15%  loss 2.3457  5m 24s left"
            "  52.1k tokens/s  812 MB");
  EXPECT_NE(progress_line(state(312, 60), {true, true, true, 120}, 324).find("\x1b[36m████"),
            std::string::npos);
  ProgressState open = state(312, 60);  // a budget in seconds
  open.total = 0;
  open.fraction = 0.5;
  open.loss.reset();
  EXPECT_EQ(progress_line(open, {}, -1), "step 312  50%  52.1k tokens/s  812 MB");
}

TEST(unit, progress_in_a_file_is_plain_and_rare) {
  std::string out;
  {
    ProgressDisplay display({}, [&out](std::string_view text) { out += text; });
    for (int64_t step = 0; step <= 250; ++step)
      display.update(state(step, 0.1 * static_cast<double>(step)));  // 25 s
    display.line("step 250  validation_loss 2.1");
    display.finish();
  }
  EXPECT_EQ(std::count(out.begin(), out.end(), '\n'), 5) << out;  // at 0, 10, 20, the line, the end
  EXPECT_EQ(out.find('\x1b'), std::string::npos);
  EXPECT_EQ(out.find('\r'), std::string::npos);
  EXPECT_NE(out.find("\nstep 250  validation_loss 2.1\n"), std::string::npos) << out;
  // 100 steps in 10 s, 1900 to go.
  EXPECT_NE(out.find(" 100/2000   5%  loss 2.3457  3m 10s left"), std::string::npos) << out;
}

TEST(unit, progress_on_a_terminal_redraws_one_line) {
  std::vector<std::string> out;
  ProgressStyle style;
  style.terminal = true;
  {
    ProgressDisplay display(style, [&out](std::string_view text) { out.emplace_back(text); });
    for (int64_t step = 1000; step < 1100; ++step)
      display.update(state(step, 0.01 * static_cast<double>(step - 1000)));  // 1 s
    EXPECT_GE(out.size(), 9u);
    EXPECT_LE(out.size(), 11u);
    for (const std::string& text : out) EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    // Resumed at half: what was done before this process is not counted as its speed.
    EXPECT_NE(out.back().find("9s left"), std::string::npos) << out.back();
    out.clear();
    display.line("saved");
    ASSERT_EQ(out.size(), 3u);
    EXPECT_EQ(out[0], "\r\x1b[K");
    EXPECT_EQ(out[1], "saved\n");
    out.clear();
  }
  ASSERT_EQ(out.size(), 1u);  // without finish() the bar goes away
  EXPECT_EQ(out[0], "\r\x1b[K");
}

TEST(unit, progress_style_of_a_file) {
  const test::TemporaryFolder folder;
  FILE* file = std::fopen(folder.file("log").c_str(), "w");
  const ProgressStyle style = ProgressStyle::of(::fileno(file));
  std::fclose(file);
  EXPECT_FALSE(style.terminal);
  EXPECT_FALSE(style.colour);
}

}  // namespace
}  // namespace formwork

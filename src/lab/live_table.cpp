#include "lab/live_table.h"

#include <algorithm>

#include "lab/text_table.h"

namespace formwork {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kTellEvery = std::chrono::seconds(30);

std::string printed(const char* format, double value) {
  char text[32];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

bool is_over(const RunProgress& run) {
  return run.state == RunState::done || run.state == RunState::failed ||
         run.state == RunState::diverged;
}

std::string cell(const RunProgress& run) {
  const std::string part = printed("%.0f %%", 100.0 * run.fraction);
  switch (run.state) {
    case RunState::missing:
      return "-";
    case RunState::interrupted:
      return part + " (waits)";
    case RunState::running:
      return part;
    case RunState::done:
      return run.metric ? printed("%.4g", *run.metric) : "done";
    default:
      return state_name(run.state);
  }
}

/// "2/3", with what one may want to know of the rest.
std::string short_cell(const std::vector<RunProgress>& runs) {
  int done = 0;
  std::string more;
  for (const RunProgress& run : runs) {
    if (run.state == RunState::done) ++done;
    if (run.state == RunState::running) more += " " + cell(run);
    if (run.state == RunState::failed || run.state == RunState::diverged) more += " " + cell(run);
  }
  return std::to_string(done) + "/" + std::to_string(runs.size()) + more;
}

std::string cut(const std::string& line, size_t width) {
  std::string out;
  size_t columns = 0;
  for (const char c : line) {
    if ((static_cast<unsigned char>(c) & 0xc0U) != 0x80U && ++columns > width) break;
    out += c;
  }
  return out;
}

double done_fraction(const std::vector<RunProgress>& progress) {
  double sum = 0.0;
  for (const RunProgress& run : progress) sum += is_over(run) ? 1.0 : run.fraction;
  return sum / static_cast<double>(progress.size());
}

std::string status_line(const std::vector<RunProgress>& progress, double left) {
  const auto over = std::count_if(progress.begin(), progress.end(), is_over);
  std::string line = std::to_string(over) + " of " + std::to_string(progress.size()) +
                     " runs ended, " + printed("%.0f %%", 100.0 * done_fraction(progress));
  if (left >= 0.0) line += ", " + duration_text(left) + " left";
  return line;
}

std::vector<std::string> lines_of(const TextTable& table) {
  std::vector<std::string> lines;
  std::string line;
  for (const char c : table.text()) {
    if (c != '\n') {
      line += c;
      continue;
    }
    lines.push_back(line);
    line.clear();
  }
  return lines;
}

}  // namespace

std::vector<std::string> live_lines(const Plan& plan, const std::vector<RunProgress>& progress,
                                    size_t width, double left) {
  const size_t variants = plan.variants.size(), seeds = plan.seeds.size();
  std::vector<std::string> lines;
  for (const bool wide : {true, false}) {
    std::vector<std::string> head = {plan.metric};
    if (wide)
      for (const int64_t seed : plan.seeds) head.push_back("seed " + std::to_string(seed));
    else
      head.emplace_back("seeds");
    head.insert(head.end(), {"loss", "tokens/s"});
    TextTable table(head);
    for (size_t v = 0; v < variants; ++v) {
      std::vector<RunProgress> runs;
      for (size_t s = 0; s < seeds; ++s) runs.push_back(progress[s * variants + v]);
      std::vector<std::string> row = {plan.variants[v].name};
      if (wide)
        for (const RunProgress& run : runs) row.push_back(cell(run));
      else
        row.push_back(short_cell(runs));
      std::optional<double> loss, rate;
      for (const RunProgress& run : runs) {
        if (run.loss) loss = run.loss;
        if (run.tokens_per_second) rate = run.tokens_per_second;
      }
      row.push_back(loss ? printed(*loss < 1e4 ? "%.4f" : "%.3g", *loss) : "-");
      row.push_back(rate ? count_text(*rate) : "-");
      table.add(row);
    }
    lines = lines_of(table);
    size_t widest = 0;
    for (const std::string& line : lines) widest = std::max(widest, columns_of(line));
    if (widest < width) break;
  }
  lines.push_back(status_line(progress, left));
  for (std::string& line : lines) line = cut(line, width - 1);
  return lines;
}

LiveTable::LiveTable(const Plan& plan, const Console& console)
    : plan_(plan), console_(console), begun_(Clock::now()), told_(begun_) {}

LiveTable::~LiveTable() {
  clear();
}

void LiveTable::clear() {
  if (drawn_ > 0) console_.write("\x1b[" + std::to_string(drawn_) + "A\x1b[J");
  drawn_ = 0;
}

void LiveTable::show(const std::vector<RunProgress>& progress) {
  const double fraction = done_fraction(progress);
  if (first_fraction_ < 0.0) first_fraction_ = fraction;
  const double seconds = std::chrono::duration<double>(Clock::now() - begun_).count();
  const double gained = fraction - first_fraction_;
  const double left = gained > 0.01 ? seconds * (1.0 - fraction) / gained : -1.0;
  if (!console_.style.terminal) {
    if (Clock::now() - told_ < kTellEvery) return;
    told_ = Clock::now();
    console_.write(status_line(progress, left) + "\n");
    return;
  }
  std::string text = drawn_ > 0 ? "\x1b[" + std::to_string(drawn_) + "A\x1b[J" : "";
  const auto width = static_cast<size_t>(std::max<int64_t>(20, console_.style.width));
  const std::vector<std::string> lines = live_lines(plan_, progress, width, left);
  for (const std::string& line : lines) text += line + "\n";
  drawn_ = lines.size();
  console_.write(text);
}

void LiveTable::event(const RunEvent& event) {
  // On a terminal the table says it; only failures need words.
  if (console_.style.terminal && !event.what.starts_with("failed") &&
      !event.what.starts_with("diverged"))
    return;
  clear();
  console_.write(event.run->name + ": " + event.what + "\n");
}

}  // namespace formwork

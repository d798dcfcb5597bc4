#include "lab/runner.h"

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "core/error.h"
#include "formats/json.h"
#include "lab/figures.h"
#include "training/checkpoint.h"
#include "training/stop_signal.h"

namespace formwork {
namespace {

namespace fs = std::filesystem;

constexpr auto kPoll = std::chrono::milliseconds(50);
constexpr auto kUpdate = std::chrono::milliseconds(400);
constexpr int kMostAttempts = 3;
constexpr int64_t kTail =
    1 << 16;  // bytes of metrics that surely hold an evaluation or none lately

std::string tail_of(const std::string& path, int64_t most) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  if (!in) return "";
  const int64_t size = in.tellg();
  in.seekg(std::max<int64_t>(0, size - most));
  return {std::istreambuf_iterator<char>(in), {}};
}

/// The last lines of a file of JSON objects, newest first, until `see` has seen enough.
void each_last_line(const std::string& path, const std::function<bool(const Value&)>& see) {
  std::string text = tail_of(path, kTail);
  while (!text.empty()) {
    if (text.back() == '\n') text.pop_back();
    const size_t start = text.rfind('\n');
    const std::string line = start == std::string::npos ? text : text.substr(start + 1);
    text.resize(start == std::string::npos ? 0 : start + 1);
    if (!line.starts_with('{') || !line.ends_with('}')) continue;  // torn at either end
    if (!see(parse_json(line, path))) return;
  }
}

/// The last sentence a run said, without the program's name.
std::string last_sentence(const std::string& log) {
  std::string text = tail_of(log, 8192);
  while (!text.empty() && isspace(static_cast<unsigned char>(text.back()))) text.pop_back();
  std::string line = text.substr(text.rfind('\n') + 1);
  constexpr char kName[] = "formwork: ";
  if (line.starts_with(kName)) line.erase(0, std::strlen(kName));
  // Where to go on is said to who trains alone; here it is known.
  for (const char* advice : {"; there is no checkpoint yet in ", "; last good checkpoint: "})
    line = line.substr(0, line.find(advice));
  return line;
}

std::vector<std::string> command_for(const RunPlace& run) {
  if (latest_checkpoint(run.folder)) return {"resume", run.folder, "--quiet"};
  return {"train", run.recipe, "--set",  join_text("train.seed=", run.seed),
          "--out", run.folder, "--quiet"};
}

bool is_over(RunState state) {
  return state == RunState::done || state == RunState::failed || state == RunState::diverged;
}

}  // namespace

RunProgress progress_of(const RunPlace& run, const Plan& plan) {
  RunProgress progress;
  const RunStatus status = status_of(run);
  progress.state = status.state;
  progress.failure = status.failure;
  bool first = true;
  each_last_line((fs::path(run.folder) / "metrics.jsonl").string(), [&](const Value& line) {
    if (first) {
      progress.step = static_cast<int64_t>(number_at(line, "step").value_or(0));
      progress.seconds = number_at(line, "seconds").value_or(0);
      progress.tokens_per_second = number_at(line, "tokens_per_second");
      progress.loss = number_at(line, "loss");
      const std::string key = plan.equal == "steps" ? "step" : plan.equal;
      progress.fraction = std::min(1.0, number_at(line, key).value_or(0) / plan.budget);
      first = false;
    }
    progress.metric = number_at(line, plan.metric);
    return !progress.metric;
  });
  if (status.state == RunState::done) progress.fraction = 1.0;
  return progress;
}

Runner::Runner(const ComparisonFolder& folder, const RunnerOptions& options)
    : folder_(folder), options_(options), places_(folder.runs()), attempts_(places_.size(), 0) {
  for (const RunPlace& place : places_) progress_.push_back(progress_of(place, folder.plan()));
  for (size_t i = 0; i < places_.size(); ++i) {
    RunState& state = progress_[i].state;
    if (state == RunState::running) state = RunState::interrupted;  // its process is not ours
    if (options_.retry && (state == RunState::failed || state == RunState::diverged)) {
      forget(places_[i]);
      progress_[i] = {};
    }
  }
}

void Runner::tell(size_t index, const std::string& what) {
  if (on_event) on_event({&places_[index], what});
}

bool Runner::start(size_t index) {
  const RunPlace& place = places_[index];
  // A process that a killed comparison left behind may be saving still.
  if (is_locked(place)) return false;
  std::error_code error;
  std::vector<std::string> command = command_for(place);
  if (command.front() == "train" && fs::exists(place.folder, error)) fs::remove_all(place.folder);
  fs::create_directories(fs::path(place.folder).parent_path(), error);
  const std::string threads = std::to_string(options_.threads);
  running_.emplace(index, ChildProcess(command, {{"OMP_NUM_THREADS", threads}}, place.log));
  attempts_[index] += 1;
  progress_[index].state = RunState::running;
  tell(index, command.front() == "train" ? "started" : "going on");
  return true;
}

bool Runner::start_next() {
  for (size_t i = 0; i < places_.size(); ++i)
    if (!is_over(progress_[i].state) && !running_.count(i) && start(i)) return true;
  return false;
}

void Runner::settle_failure(size_t index, RunState state, const std::string& sentence) {
  progress_[index].state = state;
  progress_[index].failure = sentence;
  tell(index, join_text(state_name(state), ": ", sentence));
}

void Runner::ended(size_t index, const ProcessEnd& end) {
  const RunPlace& place = places_[index];
  if (end.signal == 0 && end.code != 0 && end.code != 130) {
    const std::string said = last_sentence(place.log);
    const std::string sentence = said.empty() ? join_text("left with exit code ", end.code) : said;
    note_failure(place, state_of_failure(sentence), sentence);
  }
  progress_[index] = progress_of(place, folder_.plan());
  RunProgress& progress = progress_[index];
  if (progress.state == RunState::failed || progress.state == RunState::diverged)
    return settle_failure(index, progress.state, progress.failure);
  if (progress.state == RunState::done) {
    const std::string metric =
        progress.metric ? "  " + folder_.plan().metric + " " + figure_text(*progress.metric) : "";
    return tell(index, join_text("done", metric, "  in ", figure_text(progress.seconds), " s"));
  }
  progress.state = RunState::interrupted;
  if (stopping_) return tell(index, join_text("stopped at step ", progress.step));
  const std::string how =
      end.signal != 0 ? join_text("was ended by signal ", end.signal, " (", strsignal(end.signal),
                                  end.signal == SIGKILL ? "; perhaps memory was short)" : ")")
                      : "was stopped by a signal";
  if (attempts_[index] < kMostAttempts) return tell(index, how + "; trying again");
  // Not noted: the next `compare` may have more memory, or nobody who ends it.
  settle_failure(index, RunState::failed, how + join_text(" ", kMostAttempts, " times"));
}

void Runner::collect_ended() {
  for (auto entry = running_.begin(); entry != running_.end();) {
    const std::optional<ProcessEnd> end = entry->second.end();
    if (!end) {
      ++entry;
      continue;
    }
    const size_t index = entry->first;
    entry = running_.erase(entry);
    ended(index, *end);
  }
}

void Runner::update() {
  for (const auto& [index, child] : running_) {
    const RunProgress now = progress_of(places_[index], folder_.plan());
    RunProgress& shown = progress_[index];
    const std::optional<double> metric = now.metric ? now.metric : shown.metric;
    shown = now;
    shown.metric = metric;
    shown.state = RunState::running;
  }
  if (on_progress) on_progress(progress_);
}

bool Runner::run() {
  const StopSignal stop;
  auto shown = std::chrono::steady_clock::time_point{};
  while (true) {
    if (stop.requested() && !stopping_) {
      stopping_ = true;
      for (auto& [index, child] : running_) child.send(SIGTERM);
    }
    collect_ended();
    while (!stopping_ && static_cast<int64_t>(running_.size()) < options_.jobs && start_next()) {
    }
    const auto now = std::chrono::steady_clock::now();
    if (now - shown > kUpdate) {
      update();
      shown = now;
    }
    const bool all = std::all_of(progress_.begin(), progress_.end(),
                                 [](const RunProgress& p) { return is_over(p.state); });
    if (running_.empty() && (all || stopping_)) break;
    std::this_thread::sleep_for(kPoll);
  }
  if (on_progress) on_progress(progress_);
  return !stopping_;
}

RunProgress train_one(const ComparisonFolder& folder, const RunPlace& run, int64_t threads,
                      bool retry) {
  RunnerOptions options;
  options.threads = threads;
  options.retry = retry;
  Plan one = folder.plan();
  std::erase_if(one.variants, [&](const Variant& v) { return v.folder != run.variant->folder; });
  one.seeds = {run.seed};
  const ComparisonFolder narrowed = folder.narrowed(one);
  Runner runner(narrowed, options);
  runner.run();
  return runner.progress().front();
}

}  // namespace formwork

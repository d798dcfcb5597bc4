#include "lab/comparison_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "core/options.h"
#include "formats/atomic_file.h"
#include "formats/json.h"
#include "lab/figures.h"

namespace formwork {
namespace {

namespace fs = std::filesystem;

constexpr auto kStillRunning = std::chrono::seconds(60);

std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void make_folder(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) fail(path, "cannot be made: ", error.message());
}

/// A file's descriptor with the lock that `mode` asks of it, -1 when another process has it.
int take_lock(const std::string& file, int flags, int mode) {
  const int descriptor = ::open(file.c_str(), flags | O_CLOEXEC, 0666);
  if (descriptor < 0) return -1;
  if (::flock(descriptor, mode | LOCK_NB) == 0) return descriptor;
  ::close(descriptor);
  return -1;
}

bool changed_lately(const std::string& folder) {
  std::error_code error;
  const auto now = fs::file_time_type::clock::now();
  for (const char* name : {"metrics.jsonl", "recipe.toml", ".lock"}) {
    const auto at = fs::last_write_time(fs::path(folder) / name, error);
    if (!error && now - at < kStillRunning) return true;
  }
  return false;
}

/// A run that was stopped cleanly has a summary; one that went on since has newer metrics.
RunState state_of_incomplete(const fs::path& folder) {
  std::error_code error;
  const auto stopped = fs::last_write_time(folder / "summary.json", error);
  const auto measured = fs::last_write_time(folder / "metrics.jsonl", error);
  return !error && measured > stopped && changed_lately(folder.string()) ? RunState::running
                                                                         : RunState::interrupted;
}

RunStatus status_of_summary(const fs::path& folder) {
  const Value summary = read_json_if_there((folder / "summary.json").string());
  if (!flag_at(summary, "complete")) return {state_of_incomplete(folder), ""};
  const std::optional<double> loss = number_at(summary, "validation_loss");
  if (loss && std::isfinite(*loss)) return {RunState::done, ""};
  return {RunState::diverged, "the validation loss at the end is not a number"};
}

}  // namespace

const char* state_name(RunState state) {
  static const char* const kNames[] = {"missing", "interrupted", "running",
                                       "done",    "failed",      "diverged"};
  return kNames[static_cast<int>(state)];
}

ComparisonFolder::ComparisonFolder(std::string path, Plan plan)
    : path_(std::move(path)), plan_(std::move(plan)) {}

ComparisonFolder::ComparisonFolder(ComparisonFolder&& other) noexcept
    : path_(std::move(other.path_)),
      plan_(std::move(other.plan_)),
      lock_(std::exchange(other.lock_, -1)) {}

ComparisonFolder::~ComparisonFolder() {
  if (lock_ >= 0) ::close(lock_);
}

bool ComparisonFolder::is_one(const std::string& path) {
  std::error_code error;
  return fs::exists(fs::path(path) / "plan.json", error);
}

ComparisonFolder ComparisonFolder::open(const std::string& path) {
  check(is_one(path), path,
        "is no comparison: it has no plan.json; give a recipe, or the folder "
        "that formwork compare made");
  const std::string file = (fs::path(path) / "plan.json").string();
  return {path, plan_from(read_json_if_there(file), file)};
}

ComparisonFolder ComparisonFolder::adopt(const std::string& path, const Plan& plan) {
  std::error_code error;
  if (is_one(path)) {
    check_same_plan(plan, open(path).plan(), path);
  } else {
    check(!fs::exists(path, error) || fs::is_empty(path, error), path,
          "holds something else than a comparison; choose another --out");
  }
  ComparisonFolder folder(path, plan);
  make_folder(folder.file("recipes"));
  make_folder(folder.file("logs"));
  for (const Variant& variant : plan.variants)
    write_file_atomically(folder.file("recipes/" + variant.folder + ".toml"), variant.recipe);
  // Last: a folder with a plan has all that its runs need.
  write_file_atomically(folder.file("plan.json"), write_json(plan_value(plan), 2) + "\n");
  return folder;
}

std::string ComparisonFolder::file(const std::string& name) const {
  return (fs::path(path_) / name).string();
}

void ComparisonFolder::lock() {
  lock_ = take_lock(file(".lock"), O_RDWR | O_CREAT, LOCK_EX);
  if (lock_ < 0) {
    const std::string owner = read_text(file(".lock"));
    refuse(path_, "another process (", owner.empty() ? "unknown" : owner,
           ") trains this comparison; wait for its end or stop it");
  }
  const std::string owner = join_text("process ", ::getpid());
  if (::ftruncate(lock_, 0) != 0 ||
      ::pwrite(lock_, owner.data(), owner.size(), 0) != static_cast<ssize_t>(owner.size()))
    fail(path_, "cannot be written to: ", std::generic_category().message(errno));
}

RunPlace ComparisonFolder::run(const Variant& variant, int64_t seed) const {
  const std::string seed_name = join_text("seed-", seed);
  RunPlace place;
  place.variant = &variant;
  place.seed = seed;
  place.name = variant.folder + "/" + seed_name;
  place.folder = file("runs/" + place.name);
  place.recipe = file("recipes/" + variant.folder + ".toml");
  place.log = file("logs/" + variant.folder + "-" + seed_name + ".log");
  place.outcome = file("logs/" + variant.folder + "-" + seed_name + ".json");
  return place;
}

std::vector<RunPlace> ComparisonFolder::runs() const {
  std::vector<RunPlace> places;
  for (const int64_t seed : plan_.seeds)
    for (const Variant& variant : plan_.variants) places.push_back(run(variant, seed));
  return places;
}

RunPlace ComparisonFolder::run(const std::string& name) const {
  std::vector<std::string> names;
  for (const RunPlace& place : runs()) {
    if (place.name == name) return place;
    names.push_back(place.name);
  }
  refuse("--only", unknown_name("run", name, names));
}

RunStatus status_of(const RunPlace& run) {
  std::error_code error;
  if (fs::exists(run.outcome, error)) {
    const Value outcome = read_json_if_there(run.outcome);
    const bool diverged = text_at(outcome, "status") == "diverged";
    return {diverged ? RunState::diverged : RunState::failed, text_at(outcome, "failure")};
  }
  if (fs::exists(fs::path(run.folder) / "summary.json", error))
    return status_of_summary(run.folder);
  if (!fs::exists(run.folder, error)) return {};
  return {changed_lately(run.folder) ? RunState::running : RunState::interrupted, ""};
}

bool is_locked(const RunPlace& run) {
  std::error_code error;
  const std::string file = (fs::path(run.folder) / ".lock").string();
  if (!fs::exists(file, error)) return false;
  const int lock = take_lock(file, O_RDWR, LOCK_EX);
  if (lock >= 0) ::close(lock);
  return lock < 0;
}

void note_failure(const RunPlace& run, RunState state, const std::string& sentence) {
  Value outcome{Table{}};
  outcome["status"] = state_name(state);
  outcome["failure"] = sentence;
  write_file_atomically(run.outcome, write_json(outcome, 2) + "\n");
}

void forget(const RunPlace& run) {
  std::error_code error;
  fs::remove(run.outcome, error);
  fs::remove_all(run.folder, error);
  if (error) fail(run.folder, "cannot be removed: ", error.message());
}

RunState state_of_failure(const std::string& sentence) {
  return sentence.find("the loss is ") != std::string::npos ? RunState::diverged : RunState::failed;
}

}  // namespace formwork

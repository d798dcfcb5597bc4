#include "training/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "formats/atomic_file.h"
#include "formats/json.h"

namespace formwork {
namespace {

namespace fs = std::filesystem;

constexpr char kLock[] = ".lock";

std::string reason() {
  return std::generic_category().message(errno);
}

/// Whether a folder holds anything but the lock that a process left which died before it wrote.
bool holds_anything(const std::string& path) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(path, error))
    if (entry.path().filename() != kLock) return true;
  return false;
}

void refuse_used(const std::string& path) {
  std::error_code error;
  check(!fs::exists(path, error) || fs::is_directory(path, error), path,
        "is a file; choose another --out for the run's folder");
  if (!holds_anything(path)) return;
  const bool run = !list_checkpoints(path).empty();
  refuse(path, "already holds ", run ? "a run" : "files", "; choose another --out",
         run ? join_text(", or go on with it: formwork resume ", path) : "");
}

/// Takes the folder's lock or refuses, naming the process that has it. The lock ends with the
/// process, however it ends; the file stays.
int take_lock(const std::string& path) {
  const std::string file = (fs::path(path) / kLock).string();
  const int lock = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (lock < 0) fail(path, "cannot be written to: ", reason());
  int result;
  do {
    result = ::flock(lock, LOCK_EX | LOCK_NB);
  } while (result != 0 && errno == EINTR);
  if (result != 0) {
    const int cause = errno;
    ::close(lock);
    if (cause != EWOULDBLOCK)
      fail(path, "cannot be locked: ", std::generic_category().message(cause));
    std::string owner = "unknown";
    std::getline(std::ifstream(file) >> std::ws, owner);
    refuse(path, "another process (", owner,
           ") trains in this folder; wait for its end, stop it, or choose another --out");
  }
  const std::string owner = join_text("process ", ::getpid(), "\n");
  if (::ftruncate(lock, 0) != 0 ||
      ::pwrite(lock, owner.data(), owner.size(), 0) != static_cast<ssize_t>(owner.size())) {
    const std::string why = reason();
    ::close(lock);
    fail(path, "cannot be written to: ", why);
  }
  return lock;
}

/// The text of machine.json without what differs from one moment to the next.
std::string lasting(Value machine) {
  machine["date"] = Value();
  machine["available_memory_bytes"] = Value();
  return write_json(machine);
}

std::string stem_of(const std::string& recipe_path) {
  std::string stem = fs::path(recipe_path).stem().string();
  for (char& c : stem)
    if (!isalnum(static_cast<unsigned char>(c)) && c != '-' && c != '_' && c != '.') c = '-';
  return stem.empty() ? "run" : stem;
}

}  // namespace

std::string default_run_name(const std::string& recipe_path, int64_t unix_seconds) {
  const auto seconds = static_cast<std::time_t>(unix_seconds);
  std::tm local{};
  ::localtime_r(&seconds, &local);
  char date[32];
  std::strftime(date, sizeof date, "%Y-%m-%d-%H%M%S", &local);
  return stem_of(recipe_path) + "-" + date;
}

RunFolder::RunFolder(std::string path, int lock)
    : path_(std::move(path)), lock_(lock), metrics_((fs::path(path_) / "metrics.jsonl").string()) {}

RunFolder::RunFolder(RunFolder&& other) noexcept
    : path_(std::move(other.path_)),
      lock_(std::exchange(other.lock_, -1)),
      metrics_(std::move(other.metrics_)) {}

RunFolder::~RunFolder() {
  if (lock_ >= 0) ::close(lock_);
}

RunFolder RunFolder::create(const std::string& path) {
  check(!path.empty(), "--out", "an empty name; name a folder for the run");
  refuse_used(path);
  std::error_code error;
  fs::create_directories(path, error);
  if (error) fail(path, "cannot be made: ", error.message());
  const int lock = take_lock(path);
  try {
    refuse_used(path);  // another process may have come and gone since the first look
    return RunFolder(path, lock);
  } catch (...) {
    ::close(lock);
    throw;
  }
}

RunFolder RunFolder::create_named(const std::string& parent, const std::string& recipe_path) {
  std::error_code error;
  fs::create_directories(parent, error);
  if (error) fail(parent, "cannot be made: ", error.message());
  const std::string name = default_run_name(recipe_path, std::time(nullptr));
  for (int64_t number = 1;; ++number) {
    const fs::path path = fs::path(parent) / (number == 1 ? name : join_text(name, "-", number));
    // mkdir lets exactly one of several processes have a name.
    if (::mkdir(path.c_str(), 0777) == 0) return create(path.string());
    if (errno != EEXIST) fail(path.string(), "cannot be made: ", reason());
  }
}

RunFolder RunFolder::open(const std::string& path) {
  std::error_code error;
  check(fs::is_directory(path, error), path, "no such folder; name the folder of a run");
  check(fs::exists(fs::path(path) / "recipe.toml", error), path,
        "is not a run: it has no recipe.toml");
  const int lock = take_lock(path);
  try {
    remove_leftovers(path);
    return RunFolder(path, lock);
  } catch (...) {
    ::close(lock);
    throw;
  }
}

std::string RunFolder::file(const std::string& name) const {
  return (fs::path(path_) / name).string();
}

void RunFolder::write_recipe(const std::string& toml) {
  write_file_atomically(file("recipe.toml"), toml);
}

void RunFolder::write_machine(const Value& machine) {
  std::error_code error;
  std::string name = "machine.json";
  for (int64_t number = 2; fs::exists(file(name), error); ++number) {
    std::ifstream in(file(name), std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    if (lasting(parse_json(text, file(name))) == lasting(machine)) return;
    name = join_text("machine-", number, ".json");
  }
  write_file_atomically(file(name), write_json(machine, 2) + "\n");
}

void RunFolder::write_summary(const Value& summary) {
  write_file_atomically(file("summary.json"), write_json(summary, 2) + "\n");
}

std::string RunFolder::save(const Checkpoint& checkpoint, const KeepRule& rule) {
  metrics_.sync();
  const std::string path = save_checkpoint(path_, checkpoint);
  prune_checkpoints(path_, rule);
  return path;
}

void RunFolder::rewind(int64_t step) {
  remove_checkpoints_after(path_, step);
  metrics_.rewind(step);
}

}  // namespace formwork

#include "training/checkpoint.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <set>
#include <system_error>

#include "core/error.h"
#include "formats/atomic_file.h"
#include "formats/json.h"
#include "training/checksums.h"

namespace formwork {
namespace {

namespace fs = std::filesystem;

const std::string kModel = "model.safetensors";
const std::string kOptimizer = "optimizer.safetensors";
const std::string kRecipe = "recipe.toml";
const std::string kProgress = "progress.json";
const std::vector<std::string> kFiles{kModel, kOptimizer, kRecipe, kProgress};

std::string checkpoints_of(const std::string& run_folder) {
  return (fs::path(run_folder) / "checkpoints").string();
}

std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) fail(path, "cannot be read");
  return {std::istreambuf_iterator<char>(in), {}};
}

/// Puts the names in a folder on disk.
void sync_folder(const std::string& path) {
  const int folder = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (folder < 0) return;
  // Some file systems cannot sync folders.
  const bool synced = ::fsync(folder) == 0 || errno == EINVAL || errno == ENOTSUP;
  const int reason = errno;
  ::close(folder);
  if (!synced) fail(path, "cannot be synced to disk: ", std::generic_category().message(reason));
}

std::optional<int64_t> step_of(const std::string& name) {
  const std::string prefix = "step-";
  if (!name.starts_with(prefix)) return std::nullopt;
  int64_t step = 0;
  const char* end = name.data() + name.size();
  const auto parsed = std::from_chars(name.data() + prefix.size(), end, step);
  if (parsed.ec != std::errc() || parsed.ptr != end || step < 0) return std::nullopt;
  return step;
}

std::string hidden_name(int64_t step, const char* ending) {
  return join_text(".step-", step, ".", ::getpid(), ending);
}

int64_t bytes_needed(const Checkpoint& checkpoint) {
  int64_t bytes = static_cast<int64_t>(checkpoint.recipe.size());
  for (const TensorMap* map : {&checkpoint.model, &checkpoint.optimizer})
    for (const auto& [name, tensor] : *map)
      bytes += tensor.defined() ? static_cast<int64_t>(tensor.nbytes()) : 0;
  return bytes;
}

void write_files(const std::string& folder, const Checkpoint& checkpoint) {
  const auto in = [&folder](const std::string& name) { return (fs::path(folder) / name).string(); };
  const TextMap metadata{{"format", "pt"}, {"step", std::to_string(checkpoint.step)}};
  save_tensors(in(kModel), checkpoint.model, metadata);
  save_tensors(in(kOptimizer), checkpoint.optimizer, metadata);
  write_file_atomically(in(kRecipe), checkpoint.recipe);
  write_file_atomically(in(kProgress), write_json(checkpoint.progress, 2) + "\n");
  write_checksums(folder, checkpoint.step, kFiles);
}

/// Moves `from` to `to`; what was at `to` is then at `from` where the system can exchange names at
/// once, else it was moved aside first.
bool exchange(const std::string& from, const std::string& to) {
#if defined(__APPLE__)
  return ::renamex_np(from.c_str(), to.c_str(), RENAME_SWAP) == 0;
#elif defined(RENAME_EXCHANGE)
  return ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0;
#else
  return false;
#endif
}

/// Removes a checkpoint so that no half of it is ever seen under its name.
void remove_checkpoint(const CheckpointPlace& place) {
  const fs::path hidden = fs::path(place.path).parent_path() / hidden_name(place.step, ".old");
  std::error_code error;
  fs::remove_all(hidden, error);
  fs::rename(place.path, hidden, error);
  if (error) fail(place.path, "cannot be removed: ", error.message());
  fs::remove_all(hidden, error);
}

void publish(const std::string& temporary, const CheckpointPlace& place) {
  std::error_code error;
  if (fs::exists(place.path, error) && !exchange(temporary, place.path)) remove_checkpoint(place);
  if (fs::exists(temporary, error) && !fs::exists(place.path, error)) {
    fs::rename(temporary, place.path, error);
    if (error) fail(place.path, "cannot be written: ", error.message());
  }
  sync_folder(fs::path(place.path).parent_path().string());
  fs::remove_all(temporary, error);  // the checkpoint that was exchanged
}

/// The value of the rule's metric in a checkpoint, turned so that smaller is better; nothing where
/// it has none.
std::optional<double> badness(const CheckpointPlace& place, const KeepRule& rule) {
  std::error_code error;
  const std::string path = (fs::path(place.path) / kProgress).string();
  if (rule.metric.empty() || !fs::exists(path, error)) return std::nullopt;
  try {
    const Value progress = parse_json(read_text(path), path);
    const Value* metric = progress.find(rule.metric);
    if (!metric) return std::nullopt;
    double value = NAN;
    if (const double* real = metric->get<double>()) value = *real;
    if (const int64_t* whole = metric->get<int64_t>()) value = static_cast<double>(*whole);
    if (!std::isfinite(value)) return std::nullopt;
    return rule.lower_is_better ? value : -value;
  } catch (const Error&) {
    return std::nullopt;  // damaged: it cannot be called the best
  }
}

/// What can be used instead of a damaged checkpoint.
std::string advice(const std::string& path) {
  const fs::path folder = fs::path(path).parent_path();
  const std::optional<int64_t> step = step_of(fs::path(path).filename().string());
  if (!step || folder.filename() != "checkpoints") return "no checkpoint beside it is known";
  const fs::path run = folder.parent_path();
  std::vector<CheckpointPlace> others = list_checkpoints(run.empty() ? "." : run.string());
  // The newest older one first; where there is none, a newer one still helps.
  std::stable_sort(others.begin(), others.end(), [&step](const auto& a, const auto& b) {
    const bool a_older = a.step < *step, b_older = b.step < *step;
    return a_older != b_older ? a_older : a.step > b.step;
  });
  for (const CheckpointPlace& other : others)
    if (other.step != *step && !checkpoint_damage(other.path))
      return join_text("use --from checkpoints/step-", other.step, ", which is whole");
  return "no other checkpoint of this run is whole";
}

std::string without_slash(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

}  // namespace

std::string save_checkpoint(const std::string& run_folder, const Checkpoint& checkpoint) {
  const std::string parent = checkpoints_of(run_folder);
  const CheckpointPlace place{checkpoint.step,
                              (fs::path(parent) / join_text("step-", checkpoint.step)).string()};
  check(checkpoint.step >= 0, place.path, "a step is 0 or more");
  const std::string hidden = hidden_name(checkpoint.step, ".tmp");
  const std::string temporary = (fs::path(parent) / hidden).string();
  std::error_code ignored;
  fs::remove_all(temporary, ignored);
  std::error_code error;
  fs::create_directories(temporary, error);
  if (error) fail(place.path, "cannot be written: ", error.message());
  try {
    write_files(temporary, checkpoint);
    sync_folder(temporary);
    publish(temporary, place);
  } catch (const Error& cause) {
    fs::remove_all(temporary, ignored);
    // The reader knows the checkpoint by the name it would have had.
    std::string sentence = cause.what();
    if (const size_t at = sentence.find(hidden); at != std::string::npos)
      sentence.replace(at, hidden.size(), join_text("step-", checkpoint.step));
    throw Error(cause.fault(),
                join_text(sentence, " (the checkpoint needs ", bytes_needed(checkpoint),
                          " bytes and a little more; older ones are untouched)"));
  }
  return place.path;
}

std::optional<std::string> checkpoint_damage(const std::string& path) {
  const Verified verified = verify_checksums(path, kFiles);
  if (verified.damage) return verified.damage;
  const std::optional<int64_t> named = step_of(fs::path(without_slash(path)).filename().string());
  if (named && *named != verified.step)
    return join_text(path, " holds step ", verified.step, ", not the one of its name");
  return std::nullopt;
}

Checkpoint load_checkpoint(const std::string& given) {
  const std::string path = without_slash(given);
  std::error_code error;
  check(fs::is_directory(path, error), given,
        "is not a checkpoint; name a folder such as runs/NAME/checkpoints/step-400");
  if (const auto damage = checkpoint_damage(path))
    throw Error(Fault::failure, *damage + "; " + advice(path));
  const auto in = [&path](const std::string& name) { return (fs::path(path) / name).string(); };
  Checkpoint checkpoint;
  checkpoint.step = verify_checksums(path, {}).step;
  checkpoint.model = load_tensors(in(kModel));
  checkpoint.optimizer = load_tensors(in(kOptimizer));
  checkpoint.recipe = read_text(in(kRecipe));
  checkpoint.progress = parse_json(read_text(in(kProgress)), in(kProgress));
  return checkpoint;
}

std::vector<CheckpointPlace> list_checkpoints(const std::string& run_folder) {
  std::vector<CheckpointPlace> places;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(checkpoints_of(run_folder), error))
    if (const auto step = step_of(entry.path().filename().string()))
      places.push_back({*step, entry.path().string()});
  std::sort(places.begin(), places.end(),
            [](const auto& a, const auto& b) { return a.step < b.step; });
  return places;
}

std::optional<CheckpointPlace> latest_checkpoint(const std::string& run_folder,
                                                 std::vector<std::string>* damaged) {
  std::vector<CheckpointPlace> places = list_checkpoints(run_folder);
  std::reverse(places.begin(), places.end());
  for (const CheckpointPlace& place : places) {
    const auto damage = checkpoint_damage(place.path);
    if (!damage) return place;
    if (damaged) damaged->push_back(*damage);
  }
  return std::nullopt;
}

void prune_checkpoints(const std::string& run_folder, const KeepRule& rule) {
  const std::vector<CheckpointPlace> places = list_checkpoints(run_folder);
  const auto count = static_cast<int64_t>(places.size());
  std::set<int64_t> kept;
  for (int64_t i = std::max<int64_t>(0, count - std::max<int64_t>(1, rule.last)); i < count; ++i)
    kept.insert(places[i].step);
  std::optional<double> best;
  int64_t best_step = -1;
  for (const CheckpointPlace& place : places) {
    const std::optional<double> value = badness(place, rule);
    if (!value || (best && *value >= *best)) continue;
    best = value;
    best_step = place.step;
  }
  for (const CheckpointPlace& place : places)
    if (place.step != best_step && !kept.contains(place.step)) remove_checkpoint(place);
}

void remove_checkpoints_after(const std::string& run_folder, int64_t step) {
  std::vector<CheckpointPlace> places = list_checkpoints(run_folder);
  std::reverse(places.begin(), places.end());
  for (const CheckpointPlace& place : places)
    if (place.step > step) remove_checkpoint(place);
}

void remove_leftovers(const std::string& run_folder) {
  const std::string parent = checkpoints_of(run_folder);
  std::error_code error;
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(parent, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(".step-") && (name.ends_with(".tmp") || name.ends_with(".old")))
      found.push_back(entry.path());
  }
  for (const fs::path& path : found) {
    // Without an exchange of names, a crash may have left the only copy of a step aside.
    const std::string name = path.filename().string().substr(1);
    const fs::path visible = path.parent_path() / name.substr(0, name.find('.'));
    const bool moved =
        name.ends_with(".old") && !fs::exists(visible, error) && !checkpoint_damage(path.string());
    if (moved)
      fs::rename(path, visible, error);
    else
      fs::remove_all(path, error);
  }
}

}  // namespace formwork

#include "training/checksums.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <memory>
#include <system_error>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/error.h"
#include "formats/atomic_file.h"
#include "formats/json.h"

namespace formwork {
namespace {

namespace fs = std::filesystem;

std::string digits(XXH64_hash_t hash) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(hash));
  return text;
}

std::string reason() {
  return std::generic_category().message(errno);
}

/// A descriptor that closes itself.
struct Descriptor {
  int number;
  ~Descriptor() {
    if (number >= 0) ::close(number);
  }
};

/// The text of checksums.json; `own` is the checksum of the same text with an empty one.
std::string sums_text(int64_t step, const Value& files, const std::string& own) {
  Value root;
  root["format"] = int64_t{1};
  root["step"] = step;
  root["files"] = files;
  root["own"] = own;
  return write_json(root, 2) + "\n";
}

std::string own_sum(int64_t step, const Value& files) {
  const std::string text = sums_text(step, files, "");
  return digits(XXH3_64bits(text.data(), text.size()));
}

/// Reads and verifies checksums.json itself: any byte that differs from what would be written for
/// its contents is damage.
std::optional<std::string> read_sums(const std::string& path, int64_t& step, Value& files) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return "is missing";
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  Value root;
  try {
    root = parse_json(text, path);
  } catch (const Error&) {
    return join_text("is cut short or altered: its ", text.size(), " bytes are not valid JSON");
  }
  const Value* written_step = root.find("step");
  const Value* written_files = root.find("files");
  if (!written_step || !written_step->get<int64_t>() || !written_files)
    return "is altered: its step or its list of files is gone";
  step = *written_step->get<int64_t>();
  files = *written_files;
  if (sums_text(step, files, own_sum(step, files)) != text)
    return "is altered: its own checksum differs";
  return std::nullopt;
}

std::optional<std::string> compare(const std::string& folder, const std::string& name,
                                   const Value& wanted) {
  const Value* bytes = wanted.find("bytes");
  const Value* xxh3 = wanted.find("xxh3");
  if (!bytes || !bytes->get<int64_t>() || !xxh3 || !xxh3->get<std::string>())
    return join_text("has no size or checksum in ", kChecksumsFile);
  std::error_code error;
  const auto size = static_cast<int64_t>(fs::file_size(fs::path(folder) / name, error));
  if (error) return "is missing";
  const int64_t lacking = *bytes->get<int64_t>() - size;
  if (lacking > 0)
    return join_text("is truncated: ", lacking, " of its ", size + lacking, " bytes are missing");
  if (lacking < 0)
    return join_text("is ", -lacking, " bytes longer than the ", size + lacking, " written");
  const std::string found = sum_file(folder, name).xxh3;
  if (found != *xxh3->get<std::string>())
    return join_text("is altered (a bit flipped): its checksum is ", found, ", ",
                     *xxh3->get<std::string>(), " was written");
  return std::nullopt;
}

}  // namespace

FileSum sum_file(const std::string& folder, const std::string& name) {
  const std::string path = (fs::path(folder) / name).string();
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.number < 0) fail(path, "cannot be read: ", reason());
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(),
                                                                       &XXH3_freeState);
  XXH3_64bits_reset(state.get());
  std::vector<char> buffer(size_t{1} << 20);
  FileSum sum{name, 0, ""};
  for (;;) {
    const ssize_t count = ::read(file.number, buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(path, "cannot be read: ", reason());
    if (count == 0) break;
    XXH3_64bits_update(state.get(), buffer.data(), static_cast<size_t>(count));
    sum.bytes += count;
  }
  sum.xxh3 = digits(XXH3_64bits_digest(state.get()));
  return sum;
}

void write_checksums(const std::string& folder, int64_t step,
                     const std::vector<std::string>& names) {
  Value files;
  for (const std::string& name : names) {
    const FileSum sum = sum_file(folder, name);
    files[name]["bytes"] = sum.bytes;
    files[name]["xxh3"] = sum.xxh3;
  }
  write_file_atomically((fs::path(folder) / kChecksumsFile).string(),
                        sums_text(step, files, own_sum(step, files)));
}

Verified verify_checksums(const std::string& folder, const std::vector<std::string>& names) {
  Verified verified;
  Value files;
  const std::string sums = (fs::path(folder) / kChecksumsFile).string();
  if (const auto damage = read_sums(sums, verified.step, files)) {
    verified.damage = sums + " " + *damage;
    return verified;
  }
  for (const std::string& name : names) {
    const Value* wanted = files.find(name);
    const auto damage = compare(folder, name, wanted ? *wanted : Value());
    if (damage) {
      verified.damage = (fs::path(folder) / name).string() + " " + *damage;
      return verified;
    }
  }
  return verified;
}

}  // namespace formwork

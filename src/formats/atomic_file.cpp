#include "formats/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

#include "core/error.h"

namespace formwork {
namespace {

namespace fs = std::filesystem;

// A rename replaces the link itself; the user's link should keep pointing at the renewed file.
std::string resolve_link(const std::string& path) {
  std::error_code ignored;
  if (!fs::is_symlink(path, ignored)) return path;
  const fs::path real = fs::weakly_canonical(path, ignored);
  return ignored ? path : real.string();
}

std::string folder_of(const std::string& path) {
  const fs::path parent = fs::path(path).parent_path();
  return parent.empty() ? "." : parent.string();
}

std::string next_temporary(const std::string& target) {
  static std::atomic<uint64_t> counter{0};
  return join_text(target, ".", ::getpid(), "-", counter++, ".partial");
}

int retry_fsync(int descriptor) {
  int result;
  do {
    result = ::fsync(descriptor);
  } while (result != 0 && errno == EINTR);
  return result;
}

}  // namespace

AtomicFile::AtomicFile(const std::string& path, uint64_t needed)
    : path_(path), target_(resolve_link(path)), needed_(needed) {
  std::error_code ignored;
  if (fs::is_directory(target_, ignored)) refuse(path_, "is a folder, a file name is needed");
  do {
    temporary_ = next_temporary(target_);
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (descriptor_ < 0 && errno == EEXIST);
  if (descriptor_ < 0) {
    temporary_.clear();
    give_up("create", errno);
  }
}

AtomicFile::~AtomicFile() {
  discard();
}

void AtomicFile::discard() {
  if (descriptor_ >= 0) ::close(descriptor_);
  descriptor_ = -1;
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
  temporary_.clear();
}

void AtomicFile::give_up(std::string_view action, int reason) {
  const std::string why = std::generic_category().message(reason);
  discard();
  if (needed_ > 0) {
    fail(path_, "cannot ", action, " it: ", why, " after ", written_, " of the ", needed_,
         " bytes needed; what was there before is unchanged");
  }
  fail(path_, "cannot ", action, " it: ", why, " after ", written_,
       " bytes; what was there before is unchanged");
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  check(descriptor_ >= 0, path_, "written after it was finished");
  constexpr size_t kMost = size_t{1} << 30;  // some systems refuse more than 2 GiB at once
  while (!bytes.empty()) {
    const ssize_t done = ::write(descriptor_, bytes.data(), std::min(bytes.size(), kMost));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) give_up("write", errno);
    written_ += static_cast<uint64_t>(done);
    bytes = bytes.subspan(static_cast<size_t>(done));
  }
}

void AtomicFile::write(std::string_view text) {
  write(std::as_bytes(std::span(text)));
}

void AtomicFile::commit() {
  check(descriptor_ >= 0, path_, "finished twice");
  if (retry_fsync(descriptor_) != 0) give_up("write", errno);
  const int descriptor = descriptor_;
  descriptor_ = -1;
  if (::close(descriptor) != 0 && errno != EINTR) give_up("write", errno);
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) give_up("replace", errno);
  temporary_.clear();

  // The rename itself must survive a power cut; some file systems cannot sync folders (EINVAL).
  const int folder = ::open(folder_of(target_).c_str(), O_RDONLY | O_CLOEXEC);
  if (folder < 0) return;
  const bool synced = retry_fsync(folder) == 0 || errno == EINVAL || errno == ENOTSUP;
  const int reason = errno;
  ::close(folder);
  if (!synced) {
    fail(path_, "is written, but its folder cannot be synchronised: ",
         std::generic_category().message(reason));
  }
}

void write_file_atomically(const std::string& path, std::string_view text) {
  AtomicFile file(path, text.size());
  file.write(text);
  file.commit();
}

}  // namespace formwork

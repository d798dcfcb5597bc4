// Files that are either the old ones or the new ones, never half of each.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace formwork {

/// Writes beside `path` and moves the result over it in `commit`: write aside, fsync, rename, fsync
/// the folder. Until then, and after any error, the file at `path` is what it was and nothing is
/// left beside it. Failed writes (disk full, quota, size limit, ...) are Errors (Fault::failure)
/// that name the file, the reason and the bytes needed. A program that writes under RLIMIT_FSIZE
/// must ignore SIGXFSZ (main does), else the signal ends it before the error can be reported.
class AtomicFile {
 public:
  /// `needed` is the size of the whole file in bytes where the caller knows it (0: unknown).
  explicit AtomicFile(const std::string& path, uint64_t needed = 0);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  /// Makes the new file visible under `path`, on disk; nothing may be written afterwards.
  void commit();

 private:
  [[noreturn]] void give_up(std::string_view action, int reason);
  void discard();

  std::string path_;       // as the caller named it
  std::string target_;     // with a final symbolic link resolved
  std::string temporary_;  // beside the target; empty once committed or removed
  uint64_t needed_;
  uint64_t written_ = 0;
  int descriptor_ = -1;
};

/// Replaces `path` by `text` in one atomic step.
void write_file_atomically(const std::string& path, std::string_view text);

}  // namespace formwork

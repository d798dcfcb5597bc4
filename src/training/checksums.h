// checksums.json of a checkpoint: the size and XXH3 checksum of each of its files.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace formwork {

/// Size in bytes and 64-bit XXH3 checksum (Collet's xxHash) of a file as 16 hexadecimal digits.
struct FileSum {
  std::string name;
  int64_t bytes = 0;
  std::string xxh3;
};

/// The name of the file that holds the sums.
inline constexpr char kChecksumsFile[] = "checksums.json";

/// The sum of `folder`/`name`. A file that cannot be read is a Fault::failure.
FileSum sum_file(const std::string& folder, const std::string& name);

/// Writes the sums of `names` and the checkpoint's step to `folder`/checksums.json, which carries a
/// checksum of its own.
void write_checksums(const std::string& folder, int64_t step,
                     const std::vector<std::string>& names);

/// What verify_checksums found: the step written in the sums, or what is wrong.
struct Verified {
  int64_t step = 0;
  std::optional<std::string> damage;  ///< "<folder>/<file>: <what is wrong>"
};

/// Compares each of `names` in `folder` with its sum: missing, truncated by n bytes, n bytes too
/// long, or altered (a flipped bit).
Verified verify_checksums(const std::string& folder, const std::vector<std::string>& names);

}  // namespace formwork

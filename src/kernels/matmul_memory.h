// What was measured of matrix products on this machine, kept from one process to the next.
#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <string>

namespace formwork {

/// Speedups by shape in a file of lines, to which every process only adds: the first line of a
/// shape counts, so that processes which measure at once agree afterwards. Safe for threads.
class MatmulMemory {
 public:
  /// That of this processor, libtorch and number of threads, in
  /// $XDG_CACHE_HOME/formwork (~/.cache/formwork).
  static MatmulMemory& of_this_machine();
  /// `file` empty: nothing is kept. Lines that cannot be read are passed over.
  explicit MatmulMemory(std::string file);

  std::optional<double> find(const std::string& shape);
  /// Keeps a measurement and returns the one that counts: another process's, if that was first; 1
  /// where it cannot be written, so that no process computes by a measurement of its own.
  double keep(const std::string& shape, double speedup);
  const std::string& file() const { return file_; }

 private:
  void read();
  bool add(const std::string& line) const;

  std::string file_;
  std::mutex mutex_;
  std::map<std::string, double> known_;
};

}  // namespace formwork

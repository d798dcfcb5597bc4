// Another copy of this program, running beside it.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace formwork {

/// How a process ended.
struct ProcessEnd {
  int code = 0;    // exit code; 0 where a signal ended it
  int signal = 0;  // 0 where it left by itself
};

/// A child is told to stop (SIGTERM) when this program dies in any way (on Linux; elsewhere it goes
/// on and its folder's lock keeps others out). What still runs when the object goes is killed.
class ChildProcess {
 public:
  /// Starts this program with `arguments` (without its name) and `variables` set in its
  /// environment. Its standard error is appended to the file `log`, its output is dropped.
  ChildProcess(const std::vector<std::string>& arguments,
               const std::vector<std::pair<std::string, std::string>>& variables,
               const std::string& log);
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;
  ~ChildProcess();

  /// How it ended, once it has; does not wait.
  std::optional<ProcessEnd> end();
  void send(int signal);

 private:
  pid_t pid_ = -1;  // -1 once it has ended
  ProcessEnd end_;
};

}  // namespace formwork

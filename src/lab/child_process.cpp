#include "lab/child_process.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "core/error.h"
#include "training/launch.h"

extern char** environ;

namespace formwork {
namespace {

std::vector<std::string> environment_with(
    const std::vector<std::pair<std::string, std::string>>& variables) {
  std::vector<std::string> all;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const std::string name = text.substr(0, text.find('='));
    if (std::none_of(variables.begin(), variables.end(),
                     [&](const auto& v) { return v.first == name; }))
      all.push_back(text);
  }
  for (const auto& [name, value] : variables) all.push_back(name + "=" + value);
  return all;
}

std::vector<char*> pointers_to(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

/// The new process' side of fork(): only calls that are safe after it.
[[noreturn]] void become(const char* program, char** arguments, char** environment, int nowhere,
                         int log, pid_t parent) {
#ifdef __linux__
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(1);
#else
  (void)parent;
#endif
  dup2(nowhere, STDIN_FILENO);
  dup2(nowhere, STDOUT_FILENO);
  dup2(log, STDERR_FILENO);
  execve(program, arguments, environment);
  _exit(127);
}

}  // namespace

ChildProcess::ChildProcess(const std::vector<std::string>& arguments,
                           const std::vector<std::pair<std::string, std::string>>& variables,
                           const std::string& log) {
  const std::string program = this_program();
  std::vector<std::string> words = {program};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<std::string> texts = environment_with(variables);
  std::vector<char*> argv = pointers_to(words), envp = pointers_to(texts);
  const int nowhere = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  const int errors = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  int cause = nowhere < 0 || errors < 0 ? errno : 0;
  const pid_t parent = ::getpid();
  if (cause == 0) {
    pid_ = ::fork();
    if (pid_ == 0) become(program.c_str(), argv.data(), envp.data(), nowhere, errors, parent);
    if (pid_ < 0) cause = errno;
  }
  for (const int descriptor : {nowhere, errors})
    if (descriptor >= 0) ::close(descriptor);
  if (cause != 0) fail(log, "a run could not be started: ", std::strerror(cause));
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), end_(other.end_) {}

ChildProcess::~ChildProcess() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

std::optional<ProcessEnd> ChildProcess::end() {
  int status = 0;
  if (pid_ >= 0 && ::waitpid(pid_, &status, WNOHANG) == pid_) {
    pid_ = -1;
    if (WIFSIGNALED(status))
      end_.signal = WTERMSIG(status);
    else
      end_.code = WEXITSTATUS(status);
  }
  if (pid_ >= 0) return std::nullopt;
  return end_;
}

void ChildProcess::send(int signal) {
  if (pid_ >= 0) ::kill(pid_, signal);
}

}  // namespace formwork

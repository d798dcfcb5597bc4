#include "training/launch.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif
#ifdef __APPLE__
#include <mach-o/dyld.h>
#endif

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "core/error.h"

extern char** environ;

namespace formwork {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kGrace = std::chrono::seconds(10);
constexpr const char* kMark = "FORMWORK_LAUNCHED";

struct Child {
  pid_t pid = -1;
  int errors = -1;  // the end to read its standard error from
  std::string line;
  bool running = false;
};

// What the handler leaves: a signal for the others, which the terminal has not sent them itself.
volatile std::sig_atomic_t pending_signal = 0;
volatile std::sig_atomic_t received_signal = 0;

void on_signal(int signal, siginfo_t* info, void*) {
  received_signal = signal;
  // Ctrl-C reaches every process of the terminal without our help (the kernel is its sender).
  if (info == nullptr || info->si_code <= 0) pending_signal = signal;
}

/// Forwards SIGINT and SIGTERM for as long as it lives.
class SignalForwarding {
 public:
  SignalForwarding() {
    pending_signal = 0;
    received_signal = 0;
    struct sigaction action = {};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, &old_interrupt_);
    sigaction(SIGTERM, &action, &old_terminate_);
  }
  ~SignalForwarding() {
    sigaction(SIGINT, &old_interrupt_, nullptr);
    sigaction(SIGTERM, &old_terminate_, nullptr);
  }
  SignalForwarding(const SignalForwarding&) = delete;
  SignalForwarding& operator=(const SignalForwarding&) = delete;

 private:
  struct sigaction old_interrupt_ = {}, old_terminate_ = {};
};

int free_port() {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  const bool bound = listener >= 0 && bind(listener, generic, size) == 0 &&
                     getsockname(listener, generic, &size) == 0;
  if (listener >= 0) close(listener);
  if (!bound) fail("processes", "no free port on the loopback interface: ", std::strerror(errno));
  return ntohs(address.sin_port);
}

std::vector<std::string> environment_of(int rank, int count, int port) {
  std::vector<std::pair<std::string, std::string>> own = {
      {"RANK", std::to_string(rank)},        {"LOCAL_RANK", std::to_string(rank)},
      {"WORLD_SIZE", std::to_string(count)}, {"MASTER_ADDR", "127.0.0.1"},
      {"MASTER_PORT", std::to_string(port)}, {kMark, "1"}};
  if (std::getenv("OMP_NUM_THREADS") == nullptr) {
    const int processors = static_cast<int>(std::thread::hardware_concurrency());
    own.emplace_back("OMP_NUM_THREADS", std::to_string(std::max(1, processors / count)));
  }
  std::vector<std::string> all;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const std::string name = text.substr(0, text.find('='));
    if (std::none_of(own.begin(), own.end(), [&](const auto& v) { return v.first == name; }))
      all.push_back(text);
  }
  for (const auto& [name, value] : own) all.push_back(name + "=" + value);
  return all;
}

std::vector<char*> pointers_to(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

/// The new process' side of fork(): only calls that are safe after it.
[[noreturn]] void become(const std::string& program, char** arguments, char** environment,
                         int errors, int nowhere, pid_t parent) {
#ifdef __linux__
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(1);
#else
  (void)parent;
#endif
  if (errors >= 0) {
    dup2(nowhere, STDIN_FILENO);
    dup2(nowhere, STDOUT_FILENO);
    dup2(errors, STDERR_FILENO);
  }
  execve(program.c_str(), arguments, environment);
  _exit(127);
}

Child start(int rank, int count, int port, const std::vector<std::string>& arguments) {
  const std::string program = this_program();
  std::vector<std::string> words = arguments;
  std::vector<std::string> variables = environment_of(rank, count, port);
  std::vector<char*> argv = pointers_to(words), envp = pointers_to(variables);
  int pipe_ends[2] = {-1, -1};
  int nowhere = -1;
  if (rank > 0) {
    nowhere = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (nowhere < 0 || pipe(pipe_ends) != 0)
      fail("processes", "process ", rank, " could not be started: ", std::strerror(errno));
    for (const int end : pipe_ends) fcntl(end, F_SETFD, FD_CLOEXEC);
  }
  const pid_t parent = getpid();
  Child child;
  child.pid = fork();
  if (child.pid == 0) become(program, argv.data(), envp.data(), pipe_ends[1], nowhere, parent);
  const int error = errno;
  for (const int end : {pipe_ends[1], nowhere})
    if (end >= 0) close(end);
  if (child.pid < 0)
    fail("processes", "process ", rank, " could not be started: ", std::strerror(error));
  child.errors = pipe_ends[0];
  if (child.errors >= 0) fcntl(child.errors, F_SETFL, O_NONBLOCK);
  child.running = true;
  return child;
}

void write_all(const std::string& text) {
  for (size_t done = 0; done < text.size();) {
    const ssize_t wrote = write(STDERR_FILENO, text.data() + done, text.size() - done);
    if (wrote < 0 && errno != EINTR) return;
    if (wrote > 0) done += static_cast<size_t>(wrote);
  }
}

struct Dead {
  int rank, status;
};

bool left_with(int status, int code) {
  return WIFEXITED(status) && WEXITSTATUS(status) == code;
}

std::string died_how(int status) {
  if (left_with(status, kOtherProcessDied)) return "lost its connection to the others";
  if (WIFSIGNALED(status))
    return join_text("was ended by signal ", WTERMSIG(status), " (", strsignal(WTERMSIG(status)),
                     ")");
  return join_text("left with exit code ", WEXITSTATUS(status));
}

/// The processes, from start to end.
class Flock {
 public:
  Flock(int count, const std::vector<std::string>& arguments) {
    const int port = free_port();
    try {
      for (int rank = 0; rank < count; ++rank)
        children_.push_back(start(rank, count, port, arguments));
    } catch (...) {
      end_all();
      throw;
    }
  }

  int run() {
    while (any_running()) {
      pass_output(100);
      forward_signal();
      collect();
      // After a signal all of them are leaving already, and may take their time to save.
      if (dead_.empty() || received_signal != 0) continue;
      if (!ending_) begin_ending();
      if (Clock::now() > deadline_) send(SIGKILL);
    }
    pass_output(0);
    return verdict();
  }

 private:
  bool any_running() const {
    return std::any_of(children_.begin(), children_.end(),
                       [](const Child& c) { return c.running; });
  }

  void send(int signal) const {
    for (const Child& child : children_)
      if (child.running) kill(child.pid, signal);
  }

  void forward_signal() const {
    const int signal = pending_signal;
    if (signal == 0) return;
    pending_signal = 0;
    send(signal);
  }

  void begin_ending() {
    ending_ = true;
    // One that left because another died was seen first, perhaps; that other one is dead by now.
    collect();
    deadline_ = Clock::now() + kGrace;
    send(SIGTERM);
    counted_ = dead_.size();
  }

  void end_all() {
    send(SIGKILL);
    for (Child& child : children_) waitpid(child.pid, nullptr, 0);
  }

  void collect() {
    for (size_t rank = 0; rank < children_.size(); ++rank) {
      Child& child = children_[rank];
      int status = 0;
      if (!child.running || waitpid(child.pid, &status, WNOHANG) != child.pid) continue;
      child.running = false;
      if (status != 0) dead_.push_back({static_cast<int>(rank), status});
    }
  }

  void pass_output(int wait_ms) {
    std::vector<pollfd> waiting;
    for (const Child& child : children_) waiting.push_back({child.errors, POLLIN, 0});
    poll(waiting.data(), waiting.size(), wait_ms);
    for (size_t rank = 0; rank < children_.size(); ++rank) read_errors(static_cast<int>(rank));
  }

  void read_errors(int rank) {
    Child& child = children_[static_cast<size_t>(rank)];
    char buffer[4096];
    ssize_t got = -1;
    while (child.errors >= 0 && (got = read(child.errors, buffer, sizeof(buffer))) > 0)
      child.line.append(buffer, static_cast<size_t>(got));
    if (got == 0) {  // closed: what is left is the last line
      close(std::exchange(child.errors, -1));
      if (!child.line.empty()) child.line += '\n';
    }
    for (size_t end = child.line.find('\n'); end != std::string::npos;
         end = child.line.find('\n')) {
      write_all(join_text("[process ", rank, "] ", child.line.substr(0, end + 1)));
      child.line.erase(0, end + 1);
    }
  }

  /// The first that died of itself: not because of another one, nor because we ended it.
  Dead culprit() const {
    const size_t counted = ending_ ? counted_ : dead_.size();
    for (size_t i = 0; i < counted; ++i)
      if (!left_with(dead_[i].status, kOtherProcessDied)) return dead_[i];
    return dead_[0];
  }

  int verdict() const {
    if (dead_.empty()) return 0;
    const auto [rank, status] = culprit();
    const bool by_signal = WIFSIGNALED(status);
    if (received_signal != 0) return by_signal ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    if (rank == 0 && !by_signal && !left_with(status, kOtherProcessDied))
      return WEXITSTATUS(status);
    throw Error(left_with(status, 2) ? Fault::request : Fault::failure,
                join_text("process ", rank, " of ", children_.size(), " ", died_how(status),
                          "; the others were ended"));
  }

  std::vector<Child> children_;
  std::vector<Dead> dead_;  // in the order they were seen
  size_t counted_ = 0;      // how many of them died before the others were told to end
  bool ending_ = false;
  Clock::time_point deadline_;
};

}  // namespace

std::string this_program() {
#ifdef __APPLE__
  char path[PATH_MAX];
  uint32_t size = sizeof(path);
  check(_NSGetExecutablePath(path, &size) == 0, "processes", "this program's path is too long");
  return path;
#else
  char path[PATH_MAX];
  const ssize_t size = readlink("/proc/self/exe", path, sizeof(path));
  check(size > 0 && size < PATH_MAX, "processes", "this program's path cannot be read from /proc");
  return {path, static_cast<size_t>(size)};
#endif
}

bool started_by_launcher() {
  return std::getenv(kMark) != nullptr;
}

int run_processes(int count, const std::vector<std::string>& arguments) {
  check(count >= 1, "processes", "is ", count, "; at least 1 was expected");
  check(!started_by_launcher(), "processes", "this process is already one of several");
  const SignalForwarding forwarding;
  return Flock(count, arguments).run();
}

}  // namespace formwork

#include "training/stop_signal.h"

#include <time.h>

#include <atomic>
#include <cerrno>

namespace formwork {
namespace {

// Only lock-free atomics and async-signal-safe calls below: a handler may interrupt anything.
std::atomic<int> received{0};
std::atomic<int64_t> received_at{0};
std::atomic<int> living{0};
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<int64_t>::is_always_lock_free);

constexpr int64_t kSameSignal = 500'000'000;  // nanoseconds

int64_t now() {
  timespec time{};
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<int64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

void handle(int number) {
  const int kept = errno;
  int none = 0;
  if (received.compare_exchange_strong(none, number)) {
    received_at = now();
  } else if (number == SIGINT && now() - received_at >= kSameSignal) {
    ::signal(SIGINT, SIG_DFL);
    ::raise(SIGINT);  // delivered when this handler returns
  }
  errno = kept;
}

}  // namespace

StopSignal::StopSignal() {
  if (living++ == 0) received = 0;
  struct sigaction action {};
  action.sa_handler = handle;
  action.sa_flags = SA_RESTART;  // half-done writes and reads go on
  ::sigemptyset(&action.sa_mask);
  ::sigaction(SIGINT, &action, &old_interrupt_);
  ::sigaction(SIGTERM, &action, &old_terminate_);
}

StopSignal::~StopSignal() {
  ::sigaction(SIGINT, &old_interrupt_, nullptr);
  ::sigaction(SIGTERM, &old_terminate_, nullptr);
  --living;
}

int StopSignal::signal() const {
  return received;
}

}  // namespace formwork

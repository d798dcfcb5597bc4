#include "training/stop_signal.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

namespace formwork {
namespace {

void sleep_milliseconds(int64_t count) {
  timespec left{count / 1000, count % 1000 * 1'000'000};
  while (::nanosleep(&left, &left) != 0) continue;
}

TEST(unit, stop_signal_sets_a_flag_and_restores) {
  struct sigaction before {};
  ::sigaction(SIGTERM, nullptr, &before);
  {
    const StopSignal stop;
    EXPECT_FALSE(stop.requested());
    ::raise(SIGTERM);
    EXPECT_TRUE(stop.requested());
    EXPECT_EQ(stop.signal(), SIGTERM);
    ::raise(SIGTERM);
    ::raise(SIGINT);  // at once: may be the same wish, told twice
    EXPECT_EQ(stop.signal(), SIGTERM);
  }
  struct sigaction after {};
  ::sigaction(SIGTERM, nullptr, &after);
  EXPECT_EQ(before.sa_handler, after.sa_handler);
  EXPECT_FALSE(StopSignal().requested());  // the next work starts afresh
}

TEST(unit, stop_signal_second_interrupt_ends_at_once) {
  const pid_t child = ::fork();
  if (child == 0) {
    const StopSignal stop;
    ::raise(SIGINT);
    if (!stop.requested()) ::_exit(1);
    sleep_milliseconds(600);
    ::raise(SIGTERM);  // a scheduler may repeat itself
    ::raise(SIGINT);
    ::_exit(2);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status)) << status;
  EXPECT_EQ(WTERMSIG(status), SIGINT);
}

}  // namespace
}  // namespace formwork

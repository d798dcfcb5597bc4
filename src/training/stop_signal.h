// Asks a long loop to stop cleanly on Ctrl-C (SIGINT) or SIGTERM.
#pragma once

#include <signal.h>

namespace formwork {

/// While one lives, SIGINT and SIGTERM only set a flag for the loop to look at. A second Ctrl-C
/// half a second or more after the first ends the process at once, as if nobody had caught it
/// (sooner it may be the same one, passed on by a parent process). The end of the last one puts
/// back what was there before. Not for more than one thread at a time.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  /// Whether a signal came.
  bool requested() const { return signal() != 0; }
  /// SIGINT or SIGTERM, whichever came first; 0 when none did.
  int signal() const;

 private:
  struct sigaction old_interrupt_ {};
  struct sigaction old_terminate_ {};
};

}  // namespace formwork

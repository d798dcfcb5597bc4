// Who among several processes still lives. Includes c10d: for distributed.cpp only.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <vector>

namespace formwork {

/// A thread that counts up this process' number in the common store and watches those of the
/// others. It counts its own rounds, not seconds, so that a pause of all processes (Ctrl-Z, a
/// suspended job) looks like no time at all.
class Heartbeat {
 public:
  static constexpr const char* kClosed = "its connection was closed";

  /// `store` must be this thread's own connection.
  Heartbeat(c10::intrusive_ptr<c10d::Store> store, int rank, int size);
  ~Heartbeat();
  Heartbeat(const Heartbeat&) = delete;
  Heartbeat& operator=(const Heartbeat&) = delete;

  /// The process that is silent for at least `rounds` rounds of a second, and how long.
  struct Silence {
    int rank;
    std::string reason;
  };
  std::optional<Silence> silent(int rounds) const;
  /// Rounds so far, for those who must notice that this thread itself waits for an answer.
  int64_t rounds() const { return rounds_; }

 private:
  void run();
  void look(int64_t round);

  c10::intrusive_ptr<c10d::Store> store_;
  const int rank_;
  mutable std::mutex mutex_;
  std::condition_variable stop_signal_;
  bool stop_ = false;
  bool store_lost_ = false;
  std::vector<std::string> last_beat_;
  std::vector<int64_t> last_change_;  // in rounds
  std::atomic<int64_t> rounds_ = 0;
  std::thread thread_;
};

}  // namespace formwork

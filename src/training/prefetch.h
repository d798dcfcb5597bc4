// Makes training batches ahead on another thread, in the order they will be used.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "tasks/task.h"

namespace formwork {

/// A source of batches: batch k covers items start + k·stride ... + count-1. What makes a batch is
/// a pure function of its index, so working ahead cannot change the order.
class Prefetcher {
 public:
  /// ahead: batches kept ready; 0 = made when asked for, on the caller's thread.
  Prefetcher(Task& task, std::function<int64_t(int64_t k)> first_item, int64_t count,
             int64_t first_batch, int64_t ahead);
  ~Prefetcher();
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  /// The next batch; an error of the task comes out here.
  Batch next();

 private:
  void work();

  Task& task_;
  std::function<int64_t(int64_t)> first_item_;
  int64_t count_, next_, ahead_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Batch> ready_;
  std::exception_ptr error_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace formwork

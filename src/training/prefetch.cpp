#include "training/prefetch.h"

namespace formwork {

Prefetcher::Prefetcher(Task& task, std::function<int64_t(int64_t)> first_item, int64_t count,
                       int64_t first_batch, int64_t ahead)
    : task_(task),
      first_item_(std::move(first_item)),
      count_(count),
      next_(first_batch),
      ahead_(ahead) {
  if (ahead_ > 0) thread_ = std::thread([this] { work(); });
}

Prefetcher::~Prefetcher() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Prefetcher::work() {
  for (int64_t k = next_;; ++k) {
    Batch batch;
    std::exception_ptr error;
    try {
      batch = task_.training_batch(first_item_(k), count_);
    } catch (...) {
      error = std::current_exception();
    }
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return stop_ || static_cast<int64_t>(ready_.size()) < ahead_; });
    if (stop_) return;
    if (error) {
      error_ = error;
      changed_.notify_all();
      return;
    }
    ready_.push_back(std::move(batch));
    changed_.notify_all();
  }
}

Batch Prefetcher::next() {
  if (ahead_ == 0) return task_.training_batch(first_item_(next_++), count_);
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !ready_.empty() || error_; });
  if (ready_.empty()) std::rethrow_exception(error_);
  Batch batch = std::move(ready_.front());
  ready_.pop_front();
  changed_.notify_all();
  return batch;
}

}  // namespace formwork

#include "training/heartbeat.h"

#include "core/error.h"

namespace formwork {
namespace {

std::string beat_key(int rank) {
  return "beat/" + std::to_string(rank);
}

}  // namespace

Heartbeat::Heartbeat(c10::intrusive_ptr<c10d::Store> store, int rank, int size)
    : store_(std::move(store)),
      rank_(rank),
      last_beat_(static_cast<size_t>(size)),
      last_change_(static_cast<size_t>(size), 0) {
  store_->setTimeout(std::chrono::seconds(20));
  store_->set(beat_key(rank_), std::string("0"));
  thread_ = std::thread([this] { run(); });
}

Heartbeat::~Heartbeat() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  stop_signal_.notify_all();
  thread_.join();
}

void Heartbeat::run() {
  std::unique_lock lock(mutex_);
  while (!stop_ && !store_lost_) {
    lock.unlock();
    const int64_t round = rounds_ + 1;
    bool lost = false;
    try {
      store_->set(beat_key(rank_), std::to_string(round));
      look(round);
    } catch (const std::exception&) {
      lost = true;  // the store lives in process 0
    }
    rounds_ = round;
    lock.lock();
    store_lost_ = lost;
    stop_signal_.wait_for(lock, std::chrono::seconds(1), [this] { return stop_; });
  }
}

void Heartbeat::look(int64_t round) {
  std::vector<std::string> keys;
  for (size_t other = 0; other < last_beat_.size(); ++other)
    keys.push_back(beat_key(static_cast<int>(other)));
  const std::vector<std::vector<uint8_t>> beats = store_->multiGet(keys);
  const std::lock_guard lock(mutex_);
  for (size_t other = 0; other < beats.size(); ++other) {
    const std::string beat(beats[other].begin(), beats[other].end());
    if (beat == last_beat_[other]) continue;
    last_beat_[other] = beat;
    last_change_[other] = round;
  }
}

std::optional<Heartbeat::Silence> Heartbeat::silent(int rounds) const {
  const std::lock_guard lock(mutex_);
  if (store_lost_) return Silence{0, kClosed};
  for (size_t other = 0; other < last_change_.size(); ++other) {
    const int64_t quiet = rounds_ - last_change_[other];
    if (static_cast<int>(other) != rank_ && quiet >= rounds)
      return Silence{static_cast<int>(other), join_text("no sign of life for ", quiet, " s")};
  }
  return std::nullopt;
}

}  // namespace formwork

// Work in turns: items go to whichever thread is free, each thread with a worker of its own.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace formwork::cpu {

/// work(worker, item) for items 0 .. count-1 on at most `threads` threads, where make() makes a
/// thread's worker. Which thread serves an item is not fixed, so an item's results must not depend
/// on it.
template <class Make, class Work>
void in_turns(int64_t count, const Make& make, const Work& work,
              int64_t threads = at::get_num_threads()) {
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min(count, threads), 1, [&](int64_t, int64_t) {
    int64_t item = next++;
    if (item >= count) return;
    auto worker = make();
    for (; item < count; item = next++) work(worker, item);
  });
}

}  // namespace formwork::cpu

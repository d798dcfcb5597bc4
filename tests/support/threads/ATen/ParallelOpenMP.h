// Stands for libtorch's header of this name where ThreadSanitizer watches: threads of the standard
// library, whose start and end it sees, instead of OpenMP's, whose barriers it does not.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

#define INTRA_OP_PARALLEL

namespace at::internal {

template <class Body>
void invoke_parallel(int64_t begin, int64_t end, int64_t grain, const Body& body) {
  int64_t threads = at::get_num_threads();
  if (grain > 0) threads = std::min(threads, divup(end - begin, grain));
  const int64_t part = divup(end - begin, threads);
  std::vector<std::exception_ptr> failures(static_cast<size_t>(threads));
  const auto run = [&](int64_t thread) {
    const int64_t first = begin + thread * part;
    if (first >= end) return;
    try {
      const ThreadIdGuard guard(static_cast<int>(thread));
      body(first, std::min(end, first + part));
    } catch (...) {
      failures[static_cast<size_t>(thread)] = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  for (int64_t thread = 1; thread < threads; ++thread) others.emplace_back(run, thread);
  run(0);
  for (std::thread& other : others) other.join();
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

}  // namespace at::internal

// Independent work on the tensor library's threads, for files that are compiled without OpenMP.
#pragma once

#include <cstdint>
#include <functional>

namespace formwork {

/// Calls body(first, one past the last) for parts of 0 .. count-1, each on a thread of its own;
/// operators inside stay on that thread. An exception of a part is thrown here. Grad mode and
/// dispatch keys of the caller are not those of the threads.
void in_parallel(int64_t count, const std::function<void(int64_t, int64_t)>& body);

}  // namespace formwork

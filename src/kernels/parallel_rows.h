// Loops over rows on all threads, compiled for the baseline of the processor family and for AVX2.
#pragma once

#include <ATen/Parallel.h>

#include <cstdint>

namespace formwork::cpu {

/// Whether this processor has AVX2 and FMA and FORMWORK_SIMD in the environment allows them.
bool has_avx2();

#if defined(__x86_64__)
/// Everything the body calls is inlined here, so that all of it is compiled for AVX2.
template <class Body>
__attribute__((target("avx2,fma"), flatten)) void run_with_avx2(const Body& body, int64_t begin,
                                                                int64_t end) {
  body(begin, end);
}
#endif

/// body(begin, end) over parts of 0 .. count of at least `grain`, each on a thread of its own. Sums
/// in the body have one order whichever instructions serve; FMA rounds once where the baseline
/// rounds twice.
template <class Body>
void parallel_rows(int64_t count, int64_t grain, const Body& body) {
  at::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
#if defined(__x86_64__)
    if (has_avx2()) return run_with_avx2(body, begin, end);
#endif
    body(begin, end);
  });
}

}  // namespace formwork::cpu

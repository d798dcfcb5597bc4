#include "kernels/simd/cross_entropy_rows.h"

#include <limits>

#include "kernels/simd/vector.h"

namespace formwork::FORMWORK_SIMD {
namespace {

constexpr float kLog2E = 1.44269504f;
/// Vectors whose sum one float takes; such parts are added up again, so that errors do not grow
/// with the classes.
constexpr int64_t kPart = 64;

/// Σ f(vector, place) and, of the last numbers, Σ g(number, place).
template <class Each, class Rest>
inline __attribute__((always_inline)) double total_of(int64_t n, const Each& each,
                                                      const Rest& rest) {
  double total = 0.0;
  int64_t i = 0;
  while (i + kLanes <= n) {
    Vector part{};
    for (int64_t k = 0; k < kPart && i + kLanes <= n; ++k, i += kLanes) part += each(i);
    total += static_cast<double>(sum(part));
  }
  for (; i < n; ++i) total += static_cast<double>(rest(i));
  return total;
}

float largest(const float* x, int64_t n) {
  Vector high = all(-std::numeric_limits<float>::infinity());
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) high = larger(high, load(x + i));
  float most = -std::numeric_limits<float>::infinity();
  for (int64_t lane = 0; lane < kLanes; ++lane) most = high[lane] > most ? high[lane] : most;
  for (; i < n; ++i) most = x[i] > most ? x[i] : most;
  return most;
}

float weight_of(float difference) {
  return exp2_of_negative(all(difference * kLog2E))[0];
}

float row(float* logits, int64_t classes, int64_t target, float smoothing, float z_loss,
          bool gradient) {
  const float most = largest(logits, classes), chosen = logits[target];
  double mean = 0.0;
  if (smoothing > 0.0f)
    mean = total_of(
               classes, [&](int64_t i) { return load(logits + i); },
               [&](int64_t i) { return logits[i]; }) /
           static_cast<double>(classes);
  const auto weights = [&](int64_t i) {
    const Vector weight = exp2_of_negative((load(logits + i) - most) * kLog2E);
    if (gradient) store(logits + i, weight);
    return weight;
  };
  const auto weight = [&](int64_t i) {
    const float one = weight_of(logits[i] - most);
    if (gradient) logits[i] = one;
    return one;
  };
  const double total = total_of(classes, weights, weight);
  const double log_sum = static_cast<double>(most) + __builtin_log(total);
  const double rest = 1.0 - static_cast<double>(smoothing), z = static_cast<double>(z_loss);
  if (gradient) {
    const auto factor = static_cast<float>((1.0 + 2.0 * z * log_sum) / total);
    const auto shift =
        static_cast<float>(static_cast<double>(smoothing) / static_cast<double>(classes));
    int64_t i = 0;
    for (; i + kLanes <= classes; i += kLanes) store(logits + i, load(logits + i) * factor - shift);
    for (; i < classes; ++i) logits[i] = logits[i] * factor - shift;
    logits[target] -= static_cast<float>(rest);
  }
  return static_cast<float>(log_sum - rest * static_cast<double>(chosen) -
                            static_cast<double>(smoothing) * mean + z * log_sum * log_sum);
}

}  // namespace

extern const CrossEntropyRows kCrossEntropyRows;
const CrossEntropyRows kCrossEntropyRows{row};

}  // namespace formwork::FORMWORK_SIMD

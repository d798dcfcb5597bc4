#include "data/gratings.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/random.h"

namespace formwork {

Images make_gratings(int64_t count, int64_t side, double noise) {
  Images images{1, side, side, {}, {}};
  images.pixels.reserve(static_cast<size_t>(count * images.image_size()));
  images.labels.reserve(static_cast<size_t>(count));
  const RandomStream stream = RandomStream(0).child("gratings");
  for (int64_t i = 0; i < count; ++i) {
    Random random = stream.child(static_cast<uint64_t>(i)).random();
    const int64_t direction = random.integer(0, kGratingDirections - 1);
    const double angle =
        std::numbers::pi * static_cast<double>(direction) / static_cast<double>(kGratingDirections);
    const double frequency = 2 * std::numbers::pi * (1.0 / 12 + random.uniform() / 6);
    const double phase = 2 * std::numbers::pi * random.uniform();
    const double across = frequency * std::cos(angle), down = frequency * std::sin(angle);
    for (int64_t y = 0; y < side; ++y)
      for (int64_t x = 0; x < side; ++x) {
        const double wave =
            std::cos(across * static_cast<double>(x) + down * static_cast<double>(y) + phase);
        const double value = 127.5 + 40 * (wave + noise * random.normal());
        images.pixels.push_back(static_cast<uint8_t>(std::lround(std::clamp(value, 0.0, 255.0))));
      }
    images.labels.push_back(static_cast<uint8_t>(direction));
  }
  return images;
}

}  // namespace formwork

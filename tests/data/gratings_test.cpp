#include "data/gratings.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

namespace formwork::test {
namespace {

/// How much of the image is waves of a direction: the largest power over frequencies.
double power(const Images& images, int64_t index, int64_t direction) {
  const double angle = std::numbers::pi * static_cast<double>(direction) / 10;
  double best = 0.0;
  for (int64_t step = 0; step <= 16; ++step) {
    const double frequency =
        2 * std::numbers::pi * (1.0 / 12 + static_cast<double>(step) / 16.0 / 6.0);
    double cosine = 0.0, sine = 0.0;
    for (int64_t p = 0; p < images.image_size(); ++p) {
      const double along = frequency * (std::cos(angle) * static_cast<double>(p % images.width) +
                                        std::sin(angle) * static_cast<double>(p / images.width));
      const double value = images.image(index)[static_cast<size_t>(p)] - 127.5;
      cosine += value * std::cos(along);
      sine += value * std::sin(along);
    }
    best = std::max(best, cosine * cosine + sine * sine);
  }
  return best;
}

TEST(unit, gratings_run_in_the_direction_of_their_label) {
  const Images images = make_gratings(50, 16, 0.2);
  ASSERT_EQ(images.count(), 50);
  std::vector<int> seen(10);
  for (int64_t i = 0; i < images.count(); ++i) {
    int64_t best = 0;
    for (int64_t d = 1; d < 10; ++d)
      if (power(images, i, d) > power(images, i, best)) best = d;
    EXPECT_EQ(best, images.labels[static_cast<size_t>(i)]) << i;
    ++seen[static_cast<size_t>(best)];
  }
  for (const int count : seen) EXPECT_GT(count, 0);
}

TEST(property, gratings_are_the_same_however_many) {
  const Images few = make_gratings(3, 8, 1.0), many = make_gratings(9, 8, 1.0);
  EXPECT_TRUE(std::equal(few.pixels.begin(), few.pixels.end(), many.pixels.begin()));
  EXPECT_TRUE(std::equal(few.labels.begin(), few.labels.end(), many.labels.begin()));
  EXPECT_NE(make_gratings(3, 8, 0.5).pixels, few.pixels);
}

}  // namespace
}  // namespace formwork::test

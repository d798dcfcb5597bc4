// Generated images: stripes in ten directions.
#pragma once

#include <cstdint>

#include "data/images.h"

namespace formwork {

inline constexpr int64_t kGratingDirections = 10;

/// `count` grey images [side,side], label c for stripes whose waves run at an angle of c · 18°: a
/// cosine of amplitude 1 with random phase and 1/12 to 1/4 periods a pixel, plus normal noise of
/// deviation `noise`; 127.5 + 40 times that, cut off at 0 and 255. Image i is always the
/// same.
Images make_gratings(int64_t count, int64_t side, double noise);

}  // namespace formwork

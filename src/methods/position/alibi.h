// The slopes of ALiBi.
#pragma once

#include <vector>

namespace formwork {

/// m_h = 2^(-8h/H), h = 1..H, for H a power of two; otherwise those of the largest power c <= H
/// followed by every second one of 2c.
std::vector<double> alibi_slopes(int64_t heads);

}  // namespace formwork

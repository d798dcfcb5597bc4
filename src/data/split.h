// Which part of the data an example belongs to.
#pragma once

#include <cstdint>
#include <string_view>

namespace formwork {

enum class Split { train, validation, test };

/// "train", "validation", "test".
std::string_view split_name(Split split);

/// The part that an example of this content belongs to: 22 of 24 to train, one each to validation
/// and test. As the content alone decides, no example can be in two parts.
Split split_of(std::string_view content);

}  // namespace formwork

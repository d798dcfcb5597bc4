// Image files: MNIST's IDX format and CIFAR-10's binary records. Sizes that a header claims are
// checked against the bytes that are there before any memory is taken for them.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/split.h"

namespace formwork {

/// 8-bit images with a class each.
struct Images {
  int64_t channels = 1;
  int64_t height = 0;
  int64_t width = 0;
  std::vector<uint8_t> pixels;  // [count, channels, height, width]
  std::vector<uint8_t> labels;  // [count]

  int64_t count() const { return static_cast<int64_t>(labels.size()); }
  int64_t image_size() const { return channels * height * width; }
  std::span<const uint8_t> image(int64_t index) const;
};

/// An IDX array of unsigned bytes, in C order.
struct IdxArray {
  std::vector<int64_t> shape;
  std::string bytes;
};

/// Unpacks gzip data (all members). At most `most` bytes come out, else it is refused, as are
/// truncated and corrupt data, with the byte offset in the compressed data.
std::string gunzip(std::string_view bytes, const std::string& file, size_t most);

/// Whether the bytes begin like gzip data.
bool is_gzip(std::string_view bytes);

/// Parses an IDX file, plain or gzip. Errors name `file` and the byte.
IdxArray parse_idx(std::string_view bytes, const std::string& file);
IdxArray read_idx(const std::string& path);

/// Images and labels of two IDX files; labels are 0 .. classes-1.
Images read_mnist(const std::string& images_path, const std::string& labels_path,
                  int64_t classes = 10);

/// The files of MNIST's names in a folder (train-images-idx3-ubyte[.gz] and so on, t10k-... for
/// the test part). Validation has no file of its own; take it from the end of the training part.
Images read_mnist_folder(const std::string& folder, Split split);

/// CIFAR-10 records: label, 1024 red, 1024 green, 1024 blue bytes. Appends to `images`.
inline constexpr int64_t kCifarRecord = 3073;
void parse_cifar10(std::string_view bytes, const std::string& file, Images& images);

/// data_batch_1.bin .. data_batch_5.bin of a folder (train: the first 90 %, validation: the last
/// 10 %, as the Long Range Arena splits them) or test_batch.bin.
Images read_cifar10_folder(const std::string& folder, Split split);

/// The Long Range Arena's grey value: red, green and blue / 255 in float32, weighted, times 255.5,
/// truncated.
using GreyWeights = std::array<float, 3>;
inline constexpr GreyWeights kLraGrey{0.2989f, 0.5870f, 0.1140f};
uint8_t grey_value(uint8_t red, uint8_t green, uint8_t blue, const GreyWeights& weights = kLraGrey);

/// Three channels to one grey channel.
Images to_grey(const Images& colour, const GreyWeights& weights = kLraGrey);

}  // namespace formwork

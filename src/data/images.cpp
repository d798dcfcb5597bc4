#include "data/images.h"

#include <zlib.h>

#include <algorithm>
#include <filesystem>
#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "data/file.h"
#include "data/problem.h"

namespace formwork {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostUnpacked = size_t{2} << 30;
constexpr int64_t kCifarClasses = 10;

DataPlace at_byte(const std::string& file, size_t byte) {
  return {file, 0, 0, static_cast<int64_t>(byte)};
}

uint32_t big_endian(std::string_view bytes, size_t at) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<uint8_t>(bytes[at + i]);
  return value;
}

/// Ends zlib's state in any case.
class Inflater {
 public:
  Inflater() { check(inflateInit2(&stream, 16 + MAX_WBITS) == Z_OK, "gzip", "zlib cannot start"); }
  ~Inflater() { inflateEnd(&stream); }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;

  z_stream stream{};
};

void check_labels(std::string_view labels, int64_t classes, const std::string& file,
                  size_t first_byte, size_t stride) {
  for (size_t i = 0; i < labels.size(); i += stride) {
    const auto label = static_cast<uint8_t>(labels[i]);
    if (label >= classes) {
      refuse_at(at_byte(file, first_byte + i), "the label is ", int{label}, ", 0 to ", classes - 1,
                " is needed");
    }
  }
}

/// The first of `names` that exists in `folder`, plain or with .gz.
std::string find_in(const std::string& folder, std::initializer_list<std::string> names) {
  for (const std::string& name : names) {
    for (const char* suffix : {"", ".gz"}) {
      const fs::path path = fs::path(folder) / (name + suffix);
      std::error_code ignored;
      if (fs::is_regular_file(path, ignored)) return path.string();
    }
  }
  refuse(folder, "holds no ", *names.begin(), " (plain or .gz)");
}

}  // namespace

std::span<const uint8_t> Images::image(int64_t index) const {
  const auto size = static_cast<size_t>(image_size());
  return std::span(pixels).subspan(static_cast<size_t>(index) * size, size);
}

bool is_gzip(std::string_view bytes) {
  return bytes.starts_with("\x1f\x8b");
}

std::string gunzip(std::string_view bytes, const std::string& file, size_t most) {
  Inflater inflater;
  z_stream& stream = inflater.stream;
  std::string result;
  std::vector<char> chunk(size_t{1} << 16);
  size_t consumed = 0;
  while (true) {
    // zlib counts in 32 bits, so large input is given in pieces.
    const size_t piece = std::min<size_t>(bytes.size() - consumed, size_t{1} << 30);
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data() + consumed));
    stream.avail_in = static_cast<uInt>(piece);
    stream.next_out = reinterpret_cast<Bytef*>(chunk.data());
    stream.avail_out = static_cast<uInt>(chunk.size());
    const int status = inflate(&stream, Z_NO_FLUSH);
    consumed += piece - stream.avail_in;
    result.append(chunk.data(), chunk.size() - stream.avail_out);
    if (result.size() > most) {
      refuse_at(at_byte(file, consumed), "unpacks to more than ", most, " bytes");
    }
    if (status == Z_STREAM_END) {
      if (consumed == bytes.size()) return result;
      if (!is_gzip(bytes.substr(consumed))) {
        refuse_at(at_byte(file, consumed), "the gzip data is followed by something else");
      }
      inflateReset(&stream);
    } else if (status == Z_BUF_ERROR ||
               (status == Z_OK && consumed == bytes.size() && stream.avail_out == chunk.size())) {
      refuse_at(at_byte(file, bytes.size()), "the gzip data ends too early (truncated file)");
    } else if (status != Z_OK) {
      refuse_at(at_byte(file, consumed), "the gzip data is corrupt",
                stream.msg != nullptr ? join_text(" (", stream.msg, ")") : "");
    }
  }
}

IdxArray parse_idx(std::string_view bytes, const std::string& file) {
  if (is_gzip(bytes)) {
    const std::string plain = gunzip(bytes, file, kMostUnpacked);
    if (is_gzip(plain)) refuse_at({file}, "is packed twice");
    return parse_idx(plain, file);
  }
  if (bytes.size() < 4) refuse_at(at_byte(file, bytes.size()), "an IDX header needs 4 bytes");
  if (bytes[0] != 0 || bytes[1] != 0) {
    refuse_at(at_byte(file, 0), shown(bytes.substr(0, 2)), ", an IDX file begins with two zeros");
  }
  if (bytes[2] != 0x08) {
    refuse_at(at_byte(file, 2), "element type ", int{static_cast<uint8_t>(bytes[2])},
              ", 8 (unsigned bytes) is needed");
  }
  const auto dimensions = static_cast<uint8_t>(bytes[3]);
  if (dimensions < 1 || dimensions > 4) {
    refuse_at(at_byte(file, 3), int{dimensions}, " dimensions, 1 to 4 are needed");
  }
  const size_t header = 4 + size_t{4} * dimensions;
  if (bytes.size() < header) {
    refuse_at(at_byte(file, bytes.size()), "the header of ", header, " bytes is cut off");
  }
  IdxArray array;
  uint64_t claimed = 1;
  for (size_t at = 4; at < header; at += 4) {
    const uint32_t extent = big_endian(bytes, at);
    const bool fits = extent == 0 || claimed <= std::numeric_limits<uint64_t>::max() / extent;
    if (!fits) refuse_at(at_byte(file, at), "the header claims more bytes than any file has");
    claimed *= extent;
    array.shape.push_back(extent);
  }
  if (claimed != bytes.size() - header) {
    refuse_at(at_byte(file, 4), "the header claims ", claimed, " bytes of data, but ",
              bytes.size() - header, " follow it");
  }
  array.bytes = bytes.substr(header);
  return array;
}

IdxArray read_idx(const std::string& path) {
  return parse_idx(read_filled_file(path), path);
}

Images read_mnist(const std::string& images_path, const std::string& labels_path, int64_t classes) {
  const IdxArray pixels = read_idx(images_path);
  check(pixels.shape.size() == 3, images_path, "has ", pixels.shape.size(),
        " dimensions, an image file has 3 (images, rows, columns)");
  const IdxArray labels = read_idx(labels_path);
  check(labels.shape.size() == 1, labels_path, "has ", labels.shape.size(),
        " dimensions, a label file has 1");
  check(labels.shape[0] == pixels.shape[0], labels_path, "has ", labels.shape[0], " labels, but ",
        images_path, " has ", pixels.shape[0], " images");
  check(!pixels.bytes.empty(), images_path, "holds no pixels");
  check_labels(labels.bytes, classes, labels_path, 8, 1);
  Images images;
  images.height = pixels.shape[1];
  images.width = pixels.shape[2];
  images.pixels.assign(pixels.bytes.begin(), pixels.bytes.end());
  images.labels.assign(labels.bytes.begin(), labels.bytes.end());
  return images;
}

Images read_mnist_folder(const std::string& folder, Split split) {
  check(split != Split::validation, folder, "MNIST has no validation files");
  const std::string part = split == Split::train ? "train" : "t10k";
  const std::string images =
      find_in(folder, {part + "-images-idx3-ubyte", part + "-images.idx3-ubyte"});
  const std::string labels =
      find_in(folder, {part + "-labels-idx1-ubyte", part + "-labels.idx1-ubyte"});
  return read_mnist(images, labels);
}

void parse_cifar10(std::string_view bytes, const std::string& file, Images& images) {
  constexpr auto kRecord = static_cast<size_t>(kCifarRecord);
  if (bytes.empty()) refuse_at({file}, "is empty");
  if (bytes.size() % kRecord != 0) {
    refuse_at(at_byte(file, bytes.size() / kRecord * kRecord), "the last record has ",
              bytes.size() % kRecord, " bytes, ", kRecord, " are needed (label, 32x32 red, green ",
              "and blue)");
  }
  check_labels(bytes, kCifarClasses, file, 0, kRecord);
  images.channels = 3;
  images.height = images.width = 32;
  images.pixels.reserve(images.pixels.size() + bytes.size());
  for (size_t at = 0; at < bytes.size(); at += kRecord) {
    images.labels.push_back(static_cast<uint8_t>(bytes[at]));
    const std::string_view pixels = bytes.substr(at + 1, kRecord - 1);
    images.pixels.insert(images.pixels.end(), pixels.begin(), pixels.end());
  }
}

Images read_cifar10_folder(const std::string& folder, Split split) {
  const auto read = [&](const std::string& name, Images& images) {
    const std::string path = (fs::path(folder) / name).string();
    parse_cifar10(read_filled_file(path), path, images);
  };
  Images images;
  if (split == Split::test) {
    read("test_batch.bin", images);
    return images;
  }
  for (int i = 1; i <= 5; ++i) read(join_text("data_batch_", i, ".bin"), images);
  const int64_t training = images.count() * 9 / 10;
  const int64_t boundary = training * images.image_size();
  if (split == Split::train) {
    images.labels.resize(static_cast<size_t>(training));
    images.pixels.resize(static_cast<size_t>(boundary));
  } else {
    images.labels.erase(images.labels.begin(), images.labels.begin() + training);
    images.pixels.erase(images.pixels.begin(), images.pixels.begin() + boundary);
  }
  return images;
}

uint8_t grey_value(uint8_t red, uint8_t green, uint8_t blue, const GreyWeights& weights) {
  const auto part = [](uint8_t value, float weight) {
    return static_cast<float>(value) / 255.0f * weight;
  };
  const float grey = part(red, weights[0]) + part(green, weights[1]) + part(blue, weights[2]);
  return static_cast<uint8_t>(std::clamp(grey * 255.5f, 0.0f, 255.0f));
}

Images to_grey(const Images& colour, const GreyWeights& weights) {
  check(colour.channels == 3, "images", "have ", colour.channels,
        " channels, 3 are needed to make grey");
  Images grey{1, colour.height, colour.width, {}, colour.labels};
  const int64_t area = colour.height * colour.width;
  grey.pixels.reserve(static_cast<size_t>(colour.count() * area));
  for (int64_t i = 0; i < colour.count(); ++i) {
    const uint8_t* pixels = colour.image(i).data();
    for (int64_t p = 0; p < area; ++p) {
      grey.pixels.push_back(grey_value(pixels[p], pixels[area + p], pixels[2 * area + p], weights));
    }
  }
  return grey;
}

}  // namespace formwork

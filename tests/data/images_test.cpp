#include "data/images.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <string>
#include <vector>

#include "core/random.h"
#include "data/refusal.h"
#include "support/temporary_folder.h"

namespace formwork {
namespace {

using test::TemporaryFolder;

std::string big_endian(uint32_t value) {
  std::string text;
  for (int shift = 24; shift >= 0; shift -= 8) text += static_cast<char>(value >> shift);
  return text;
}

std::string idx(const std::vector<uint32_t>& shape, const std::string& data) {
  std::string text("\0\0\x08", 3);
  text += static_cast<char>(shape.size());
  for (const uint32_t extent : shape) text += big_endian(extent);
  return text + data;
}

std::string gzip(const std::string& text) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string noise(size_t size) {
  Random random(5);
  std::string text;
  for (size_t i = 0; i < size; ++i) text += static_cast<char>(random.bits());
  return text;
}

TEST(unit, images_mnist_plain_and_gzip) {
  const TemporaryFolder folder;
  const std::string pixels = noise(3 * 4 * 5);
  folder.write("t10k-images-idx3-ubyte.gz", gzip(idx({3, 4, 5}, pixels)));
  folder.write("t10k-labels-idx1-ubyte", idx({3}, std::string("\x01\x00\x09", 3)));
  const Images images = read_mnist_folder(folder.path(), Split::test);
  EXPECT_EQ(images.count(), 3);
  EXPECT_EQ(images.height, 4);
  EXPECT_EQ(images.width, 5);
  EXPECT_EQ(images.labels, (std::vector<uint8_t>{1, 0, 9}));
  EXPECT_EQ(images.image(2)[7], static_cast<uint8_t>(pixels[2 * 20 + 7]));
  EXPECT_REFUSED(read_mnist_folder(folder.path(), Split::train), "no train-images-idx3-ubyte");
}

TEST(unit, images_cifar_and_grey) {
  const TemporaryFolder folder;
  const std::string record = "\x03" + noise(3072);
  for (int i = 1; i <= 5; ++i) {
    folder.write("data_batch_" + std::to_string(i) + ".bin", record + record);
  }
  folder.write("test_batch.bin", record);
  EXPECT_EQ(read_cifar10_folder(folder.path(), Split::train).count(), 9);
  EXPECT_EQ(read_cifar10_folder(folder.path(), Split::validation).count(), 1);
  const Images images = read_cifar10_folder(folder.path(), Split::test);
  EXPECT_EQ(images.labels, std::vector<uint8_t>{3});
  const Images grey = to_grey(images);
  EXPECT_EQ(grey.channels, 1);
  ASSERT_EQ(grey.pixels.size(), 1024u);
  const auto at = [&](size_t i) { return images.pixels[i]; };
  EXPECT_EQ(grey.pixels[100], grey_value(at(100), at(1124), at(2148)));
  EXPECT_EQ(grey_value(255, 255, 255), 255);
  EXPECT_EQ(grey_value(0, 0, 0), 0);
  EXPECT_EQ(grey_value(255, 0, 0), 76);  // .2989 * 255.5 = 76.4
}

TEST(fault, images_lying_headers_have_their_byte) {
  const auto refused = [](const std::string& bytes, const std::string& words) {
    EXPECT_REFUSED(parse_idx(bytes, "f"), words);
    if (bytes.size() > 4) EXPECT_REFUSED(parse_idx(gzip(bytes), "f"), words);
  };
  refused("", "f: byte 0: an IDX header");
  refused(idx({2, 2}, "123"), "f: byte 4: the header claims 4 bytes of data, but 3 follow");
  refused(idx({2, 2}, "12345"), "but 5 follow");
  refused(idx({0xffffffff, 0xffffffff, 0xffffffff}, "1"), "claims more bytes than any file");
  refused(idx({0xffffffff}, "1"), "claims 4294967295 bytes");
  refused(idx({2, 2, 2}, "").substr(0, 10), "f: byte 10: the header of 16 bytes is cut off");
  refused(std::string("\0\0\x0d\x01\0\0\0\1\0", 9), "f: byte 2: element type 13");
  refused(std::string("\0\0\x08\x09\0\0\0\1\0", 9), "f: byte 3: 9 dimensions");
  refused("\x01hello", "f: byte 0: ");
}

TEST(fault, images_broken_gzip_has_its_byte) {
  const std::string good = gzip(idx({1000}, noise(1000)));
  EXPECT_EQ(parse_idx(good, "f").bytes.size(), 1000u);
  for (size_t length = 2; length < good.size(); length += 7) {
    EXPECT_REFUSED(parse_idx(good.substr(0, length), "f"), "truncated");
  }
  EXPECT_REFUSED(parse_idx(good + "x", "f"), "followed by something else");
  EXPECT_REFUSED(parse_idx(gzip(gzip(idx({1}, "1"))), "f"), "packed twice");
  EXPECT_REFUSED(gunzip(gzip(std::string(100000, 'a')), "f", 99999), "more than 99999 bytes");
  EXPECT_EQ(gunzip(gzip("a") + gzip("b"), "f", 10), "ab");
  Random random(2);
  for (int i = 0; i < 2000; ++i) {
    std::string bad = good;
    bad[static_cast<size_t>(random.integer(0, static_cast<int64_t>(bad.size()) - 1))] ^=
        static_cast<char>(1 << random.integer(0, 7));
    try {
      parse_idx(bad, "f");
    } catch (const Error&) {
    }
  }
}

TEST(fault, images_labels_out_of_range_have_their_byte) {
  const TemporaryFolder folder;
  const std::string images = folder.write("i", idx({2, 1, 1}, "ab"));
  const std::string labels = folder.write("l", idx({2}, "\x01\x0a"));
  EXPECT_REFUSED(read_mnist(images, labels), "l: byte 9: the label is 10");
  EXPECT_EQ(read_mnist(images, labels, 11).count(), 2);
  EXPECT_REFUSED(read_mnist(images, folder.write("m", idx({1}, "\x01"))), "has 1 labels");
  EXPECT_REFUSED(read_mnist(labels, labels), "has 1 dimensions");
  Images cifar;
  EXPECT_REFUSED(parse_cifar10("\x01" + noise(3072) + "\x0b" + noise(3072), "f", cifar),
                 "f: byte 3073: the label is 11");
  EXPECT_REFUSED(parse_cifar10("\x01" + noise(3072) + "\x01", "f", cifar),
                 "f: byte 3073: the last record has 1 bytes");
  EXPECT_REFUSED(parse_cifar10("", "f", cifar), "is empty");
}

}  // namespace
}  // namespace formwork

#include "formats/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/random.h"

namespace formwork {
namespace {

using nlohmann::json;

std::string with_length(const std::string& header, uint64_t length) {
  std::string text(8, '\0');
  std::memcpy(text.data(), &length, 8);
  return text + header;
}

std::string with_length(const std::string& header) {
  return with_length(header, header.size());
}

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

/// The sentence with which `file` is refused; empty where it is read.
std::string refusal(const std::string& file) {
  try {
    SafetensorsFile::parse(bytes_of(file), "x.safetensors");
  } catch (const Error& error) {
    EXPECT_EQ(error.fault(), Fault::request);
    return error.what();
  }
  return "";
}

std::string one_tensor(const std::string& dtype, const std::string& shape,
                       const std::string& offsets, size_t data) {
  return with_length("{\"t\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
                     ",\"data_offsets\":" + offsets + "}}") +
         std::string(data, 'z');
}

std::string sample() {
  static const std::vector<double> wide{1.5, -2.5};
  static const std::vector<uint8_t> narrow{7, 8, 9};
  std::vector<TensorBytes> tensors{{"a", DType::u8, {3}, std::as_bytes(std::span(narrow))},
                                   {"b", DType::f64, {2, 1}, std::as_bytes(std::span(wide))}};
  std::string file = safetensors_header(tensors, {{"config", "{\"\\u00e9\": 1}"}}, "x");
  for (const TensorBytes& tensor : tensors) {
    file.append(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
  }
  return file;
}

TEST(unit, safetensors_round_trip_is_canonical) {
  const std::string text = sample();
  const auto file = SafetensorsFile::parse(bytes_of(text), "x");
  ASSERT_EQ(file.entries().size(), 2u);
  EXPECT_EQ(file.entries()[0].name, "b");  // wide types first
  EXPECT_EQ(file.metadata().at("config"), "{\"\\u00e9\": 1}");
  const TensorEntry* narrow = file.find("a");
  ASSERT_NE(narrow, nullptr);
  EXPECT_EQ(narrow->shape, (std::vector<int64_t>{3}));
  EXPECT_EQ(static_cast<int>(file.bytes(*narrow)[2]), 9);
  EXPECT_EQ(file.find("c"), nullptr);
  uint64_t length = 0;
  std::memcpy(&length, text.data(), 8);
  EXPECT_EQ(length % 8, 0u);
}

TEST(unit, safetensors_writer_refuses_what_it_cannot_read) {
  const std::vector<uint8_t> data{1, 2};
  const auto bytes = std::as_bytes(std::span(data));
  std::vector<TensorBytes> twice{{"a", DType::u8, {2}, bytes}, {"a", DType::u8, {2}, bytes}};
  EXPECT_THROW(safetensors_header(twice, {}, "x"), Error);
  std::vector<TensorBytes> wrong{{"a", DType::f32, {2}, bytes}};
  EXPECT_THROW(safetensors_header(wrong, {}, "x"), Error);
  std::vector<TensorBytes> reserved{{"__metadata__", DType::u8, {2}, bytes}};
  EXPECT_THROW(safetensors_header(reserved, {}, "x"), Error);
  std::vector<TensorBytes> encoding{{"\xff", DType::u8, {2}, bytes}};
  EXPECT_THROW(safetensors_header(encoding, {}, "x"), Error);
}

TEST(fault, safetensors_lying_headers_are_refused) {
  EXPECT_NE(refusal("").find("0 bytes"), std::string::npos);
  EXPECT_NE(refusal(with_length("{}", 3)).find("only 2 bytes"), std::string::npos);
  EXPECT_NE(refusal(with_length("{}", UINT64_MAX)).find("claims a header"), std::string::npos);
  EXPECT_NE(refusal(with_length("{\"a\":")).find("JSON"), std::string::npos);
  EXPECT_NE(refusal(with_length("[1]")).find("object"), std::string::npos);
  EXPECT_NE(refusal(with_length("{\"__metadata__\":{\"a\":1}}")).find("not a string"),
            std::string::npos);
  EXPECT_NE(refusal(with_length("{\"a\":1,\"a\":2}")).find("twice"), std::string::npos);
  EXPECT_EQ(refusal(one_tensor("F32", "[2,1]", "[0,8]", 8)), "");
  EXPECT_NE(refusal(one_tensor("F32", "[2,1]", "[0,8]", 7)).find("7 bytes"), std::string::npos);
  EXPECT_NE(refusal(one_tensor("F32", "[2,1]", "[0,8]", 9)).find("9 bytes"), std::string::npos);
  EXPECT_NE(refusal(one_tensor("F32", "[3]", "[0,8]", 8)).find("needs 12"), std::string::npos);
  EXPECT_NE(refusal(one_tensor("F9", "[2]", "[0,8]", 8)).find("known types"), std::string::npos);
  EXPECT_NE(refusal(one_tensor("F32", "[-2]", "[0,8]", 8)).find("holds -2"), std::string::npos);
  EXPECT_NE(refusal(one_tensor("F32", "[2]", "[8,0]", 8)).find("claims bytes"), std::string::npos);
  EXPECT_NE(refusal(one_tensor("F32", "[4294967296,4294967296]", "[0,0]", 0)).find("2^63"),
            std::string::npos);
  EXPECT_EQ(refusal(one_tensor("F32", "[4294967296,4294967296,0]", "[0,0]", 0)), "");
}

TEST(fault, safetensors_overlaps_and_holes_are_refused) {
  const auto two = [](const std::string& first, const std::string& second) {
    return with_length("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + first +
                       "},\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + second +
                       "}}") +
           "123456789";
  };
  EXPECT_NE(refusal(two("[0,4]", "[5,9]")).find("leaving a hole after 4"), std::string::npos);
  EXPECT_NE(refusal(two("[4,8]", "[0,4]")).find("end at byte 8"), std::string::npos);
  EXPECT_NE(refusal(two("[0,4]", "[2,6]")).find("inside the tensor before"), std::string::npos);
  EXPECT_NE(refusal(two("[0,4]", "[0,4]")).find("inside the tensor before"), std::string::npos);
}

TEST(fault, safetensors_flipped_and_truncated_files_never_crash) {
  const std::string good = sample();
  for (size_t length = 0; length < good.size(); ++length) {
    EXPECT_NE(refusal(good.substr(0, length)), "") << length;
  }
  Random random(1);
  for (int i = 0; i < 20000; ++i) {
    std::string bad = good;
    for (int flips = 0; flips < 3; ++flips) {
      bad[static_cast<size_t>(random.integer(0, static_cast<int64_t>(bad.size()) - 1))] ^=
          static_cast<char>(1 << random.integer(0, 7));
    }
    refusal(bad);
  }
}

TEST(fault, safetensors_missing_files_and_folders_are_named) {
  for (const char* path : {"/no/such/file.safetensors", "/"}) {
    try {
      SafetensorsFile::open(path);
      ADD_FAILURE() << path;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(path), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace formwork

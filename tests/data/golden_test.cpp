// Reference numbers of lra_tasks that concern data: ListOps, bytes, grey images.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "data/images.h"
#include "data/listops.h"
#include "data/text.h"
#include "support/golden.h"

namespace formwork {
namespace {

std::string bytes_of(const at::Tensor& tensor) {
  const at::Tensor plain = tensor.contiguous();
  return {reinterpret_cast<const char*>(plain.const_data_ptr<uint8_t>()),
          static_cast<size_t>(plain.numel())};
}

void check_vocabulary(const GoldenCase& golden) {
  const auto words = golden.option<std::vector<std::string>>("vocab", {});
  for (size_t id = 1; id < words.size(); ++id) {
    EXPECT_EQ(parse_listops(words[id]), std::vector<uint8_t>{static_cast<uint8_t>(id)})
        << words[id];
  }
}

void check_listops_case(const GoldenCase& golden) {
  const std::string sources = bytes_of(golden.at("in.source_bytes"));
  const at::Tensor offsets =
      golden.has("in.source_offsets") ? golden.at("in.source_offsets") : golden.at("in.offsets");
  const at::Tensor& tokens = golden.at("out.tokens");
  const int64_t max_length = golden.option<int64_t>("max_length", tokens.size(1));
  for (int64_t k = 0; k + 1 < offsets.numel(); ++k) {
    const auto begin = static_cast<size_t>(offsets[k].item<int64_t>());
    const auto end = static_cast<size_t>(offsets[k + 1].item<int64_t>());
    const std::string source = sources.substr(begin, end - begin);
    SCOPED_TRACE(golden.file + " string " + std::to_string(k));
    const std::vector<uint8_t> symbols = parse_listops(source);
    EXPECT_EQ(static_cast<int64_t>(symbols.size()), golden.at("out.lengths")[k].item<int64_t>());
    EXPECT_EQ(listops_value(symbols), golden.at("out.y")[k].item<int64_t>());
    EXPECT_EQ(listops_text(symbols), source);
    expect_close("tokens", at::tensor(encode_listops(symbols, max_length), at::kLong), tokens[k]);
  }
}

void check_bytes_case(const GoldenCase& golden) {
  const at::Tensor& expected = golden.at("out.y");
  const std::string text = bytes_of(golden.at("in.bytes"));
  const int64_t length = golden.option<int64_t>("max_length", expected.numel());
  expect_close(golden.file, at::tensor(encode_lra_bytes(text, length), at::kLong), expected);
  EXPECT_EQ(golden.option<int64_t>("vocab_size", kLraByteVocabulary), kLraByteVocabulary);
}

// The reference was not run with TensorFlow: one level of difference is allowed.
void check_grey_case(const GoldenCase& golden) {
  const at::Tensor rgb = golden.at("in.rgb").reshape({-1, 3}).contiguous();
  GreyWeights weights = kLraGrey;
  const auto given = golden.option<std::vector<float>>("weights", {});
  if (given.size() == weights.size()) std::copy(given.begin(), given.end(), weights.begin());
  const auto* pixel = rgb.const_data_ptr<uint8_t>();
  const at::Tensor expected = golden.at("out.y").flatten();
  for (int64_t i = 0; i < rgb.size(0); ++i, pixel += 3) {
    EXPECT_NEAR(grey_value(pixel[0], pixel[1], pixel[2], weights), expected[i].item<int64_t>(), 1)
        << golden.file << " pixel " << i;
  }
}

TEST(golden, lra_tasks_data) {
  for (const GoldenCase& golden : golden_cases("lra_tasks")) {
    if (golden.has("in.source_bytes")) {
      check_vocabulary(golden);
      check_listops_case(golden);
    } else if (golden.has("in.bytes")) {
      check_bytes_case(golden);
    } else if (golden.has("in.rgb")) {
      check_grey_case(golden);
    }
  }
}

}  // namespace
}  // namespace formwork

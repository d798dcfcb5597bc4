// Every reference number of the baseline positions, by the names of the tensors.
#include <gtest/gtest.h>

#include <sstream>

#include "methods/position/alibi.h"
#include "methods/position/position.h"
#include "methods/position/rotary.h"
#include "methods/position/sinusoidal.h"
#include "methods/position/t5_relative.h"
#include "support/golden.h"

namespace formwork {
namespace {

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, at);) parts.push_back(part);
  return parts;
}

std::shared_ptr<Position> build_for(const std::string& kind, const Table& options, int64_t heads,
                                    int64_t head_width) {
  PositionSite site;
  site.heads = heads;
  site.head_width = head_width;
  site.width = heads * head_width;
  return Choice<Position>(kind).set(options).make(site);
}

/// "yarn_factor8_orig2048" → options; `length` receives what len says.
RotaryOptions scaling_of(const GoldenCase& golden, const std::string& name, int64_t& length) {
  RotaryOptions options;
  options.base = golden.option("base", 10000.0);
  const std::vector<std::string> parts = split(name, '_');
  options.scaling = parts.at(0);
  for (size_t i = 1; i < parts.size(); ++i) {
    const size_t digits = parts[i].find_first_of("0123456789");
    const std::string key = parts[i].substr(0, digits);
    const double value = std::stod(parts[i].substr(digits));
    if (key == "factor")
      options.factor = value;
    else if (key == "len")
      length = static_cast<int64_t>(value);
    else if (key == "max" || key == "orig")
      options.original_length = static_cast<int64_t>(value);
    else if (key == "low")
      options.low = value;
    else if (key == "high")
      options.high = value;
    else if (key == "base")
      options.base = value;
    else
      ADD_FAILURE() << golden.file << ": option " << key << " of " << name << " is not understood";
  }
  return options;
}

void check_sinusoidal(const GoldenCase& golden, const std::string& layout, const Tensor& expected) {
  const int64_t n = golden.option<int64_t>("N", expected.size(0));
  const int64_t width = golden.option<int64_t>("D", expected.size(1));
  PositionSite site;
  site.width = width;
  const auto method = Choice<Position>("sinusoidal")
                          .set({{"layout", layout}, {"base", golden.option("base", 10000.0)}})
                          .make(site);
  const Tensor zeros = at::zeros({1, n, width}, at::kDouble);
  expect_close(golden.file + " " + layout, method->add(zeros, at::arange(n))[0], expected);
}

void check_rotation(const GoldenCase& golden, const std::string& name, const Tensor& expected) {
  const std::vector<std::string> parts = split(name, '.');
  Table options{{"style", parts[0]}, {"base", golden.option("base", 10000.0)}};
  const int64_t dim = golden.option<int64_t>("rotary_dim", 0);
  if (dim > 0) options.emplace_back("rotary_dim", dim);
  const Tensor& query = golden.at("in.q");
  const auto method = build_for("rotary", options, query.size(1), query.size(-1));
  const auto rotated = [&](const char* which) {
    return method->rotate(golden.at(which), golden.at("in.positions"));
  };
  const std::string what = parts.size() > 1 ? parts[1] : "q";
  Tensor actual = rotated(what == "k" ? "in.k" : "in.q");
  if (what == "scores") actual = at::matmul(actual, rotated("in.k").transpose(-1, -2));
  expect_close(golden.file + " " + name, actual, expected);
}

void check_frequencies(const GoldenCase& golden, const std::string& name, const Tensor& expected) {
  const std::vector<std::string> head = split(name, '.');
  RotaryOptions options;
  options.base = golden.option("base", 10000.0);
  int64_t length = 0;
  // A factor such as 1.5 holds a dot itself: everything after the first one is the scaling.
  if (head.size() > 1) options = scaling_of(golden, name.substr(head[0].size() + 1), length);
  if (head[0] == "attention_factor") {
    const Tensor factor = at::scalar_tensor(attention_factor(options), at::kDouble);
    return expect_close(golden.file + " " + name, factor.expand(expected.sizes()), expected);
  }
  const int64_t dim = golden.option<int64_t>("rotary_dim", golden.option<int64_t>("d", 0));
  const Tensor actual = at::tensor(inverse_frequencies(options, dim, length), at::kDouble);
  expect_close(golden.file + " " + name, actual, expected);
}

void check_alibi(const GoldenCase& golden, const std::string& name, const Tensor& expected) {
  const std::vector<std::string> parts = split(name, '.');
  const int64_t heads =
      parts.size() > 1 ? std::stoll(parts[1].substr(1)) : golden.option<int64_t>("H", 0);
  const std::string where = golden.file + " " + name;
  if (parts[0] == "alibi_slopes")
    return expect_close(where, at::tensor(alibi_slopes(heads), at::kDouble), expected);
  const auto method = build_for("alibi", {}, heads, 8);
  const int64_t n = expected.size(-1);
  const Tensor actual = method->bias(at::arange(n), at::arange(n), at::kDouble);
  expect_close(where, actual, expected);
}

void check_buckets(const GoldenCase& golden, const std::string& name, const Tensor& expected) {
  const std::vector<std::string> parts = split(name, '.');
  const bool bidirectional =
      parts.size() > 1 ? parts[1] == "bidirectional" : golden.option("bidirectional", true);
  const int64_t range = expected.size(0) / 2;
  const Tensor actual = t5_bucket(at::arange(-range, range + 1), bidirectional,
                                  golden.option<int64_t>("num_buckets", 32),
                                  golden.option<int64_t>("max_distance", 128));
  expect_close(golden.file + " " + name, actual, expected);
}

TEST(golden, position_baselines) {
  for (const GoldenCase& golden : golden_cases("position_baselines")) {
    for (const auto& [name, expected] : golden.under("out.")) {
      const std::string head = split(name, '.')[0];
      const bool rotates = golden.has("in.q");
      if (head == "half" || (head == "interleaved" && rotates))
        check_rotation(golden, name, expected);
      else if (head == "interleaved" || head == "concat" || head == "tensor2tensor")
        check_sinusoidal(golden, name, expected);
      else if (head == "inv_freq" || head == "attention_factor")
        check_frequencies(golden, name, expected);
      else if (head == "alibi_slopes" || head == "alibi_bias")
        check_alibi(golden, name, expected);
      else if (head == "t5_bucket")
        check_buckets(golden, name, expected);
      else
        ADD_FAILURE() << golden.file << ": no check for out." << name;
    }
  }
}

}  // namespace
}  // namespace formwork

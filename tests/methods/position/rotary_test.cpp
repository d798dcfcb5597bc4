#include "methods/position/rotary.h"

#include <gtest/gtest.h>

#include "kernels/rotate.h"
#include "methods/position/position.h"
#include "support/golden.h"
#include "support/gradcheck.h"
#include "support/refusal.h"

namespace formwork {
namespace {

std::shared_ptr<Position> rotary(const Table& options, int64_t head_width) {
  PositionSite site;
  site.heads = 2;
  site.head_width = head_width;
  site.width = 2 * head_width;
  return Choice<Position>("rotary").set(options).make(site);
}

TEST(property, position_baselines_rotation_keeps_lengths) {
  const Tensor x = numbers({2, 2, 9, 16}, 1);
  const Tensor positions = at::arange(9) * 1111;
  for (const char* style : {"half", "interleaved"}) {
    const Tensor turned = rotary({{"style", style}}, 16)->rotate(x, positions);
    expect_close(style, turned.norm(2, {-1}), x.norm(2, {-1}), 1e-12);
    EXPECT_GT((turned - x).abs().max().item<double>(), 0.1);
  }
}

TEST(property, position_baselines_rotation_scores_are_relative) {
  const Tensor q = numbers({1, 2, 7, 16}, 1), k = numbers({1, 2, 7, 16}, 2);
  for (const char* style : {"half", "interleaved"}) {
    const auto method = rotary({{"style", style}}, 16);
    const auto scores = [&](int64_t shift) {
      const Tensor positions = at::arange(7) + shift;
      return at::matmul(method->rotate(q, positions), method->rotate(k, positions).transpose(2, 3));
    };
    for (const int64_t shift : {1, 100, 10000})
      expect_close(style, scores(shift), scores(0), 1e-10);
  }
}

TEST(property, position_baselines_rotation_identity_and_inverse) {
  const Tensor x = numbers({1, 2, 5, 8}, 3);
  for (const char* style : {"half", "interleaved"}) {
    const auto method = rotary({{"style", style}}, 8);
    EXPECT_TRUE(at::equal(method->rotate(x, at::zeros({5}, at::kLong)), x)) << style;
    const Tensor positions = at::arange(5) + 3;
    expect_close(style, method->rotate(method->rotate(x, positions), -positions), x, 1e-12);
  }
}

TEST(property, position_baselines_half_is_interleaved_permuted) {
  const int64_t d = 12;
  std::vector<int64_t> order;
  for (int64_t j = 0; j < d; ++j) order.push_back(j < d / 2 ? 2 * j : 2 * (j - d / 2) + 1);
  const Tensor index = at::tensor(order);
  const Tensor x = numbers({1, 2, 5, d}, 4);
  const Tensor positions = at::arange(5) + 2;
  const Tensor interleaved = rotary({{"style", "interleaved"}}, d)->rotate(x, positions);
  const Tensor half = rotary({{"style", "half"}}, d)->rotate(x.index_select(-1, index), positions);
  expect_close("half", half, interleaved.index_select(-1, index), 1e-12);
}

TEST(property, position_baselines_rotation_matches_plain_operators) {
  for (const Pairing pairing : {Pairing::half, Pairing::interleaved}) {
    for (const int64_t width : {8, 11, 16}) {
      for (const bool transposed : {false, true}) {
        Tensor x = random_leaf(
            transposed ? at::IntArrayRef({2, 5, 3, width}) : at::IntArrayRef({2, 3, 5, width}), 5);
        const auto view = [&] { return transposed ? x.transpose(1, 2) : x; };
        const Tensor angles = numbers({2, 1, 5, 4}, 6);
        const Tensor cosine = angles.cos(), sine = angles.sin();
        expect_close("rotation", rotate_pairs(view(), cosine, sine, pairing),
                     rotate_pairs_reference(view(), cosine, sine, pairing), 1e-14);
        for (const auto type : {at::kFloat, at::kHalf, at::kBFloat16}) {
          const Tensor low = rotate_pairs(view().to(type), cosine, sine, pairing);
          const Tensor plain = rotate_pairs_reference(view(), cosine, sine, pairing);
          expect_close("rotation", low.to(at::kDouble), plain, type == at::kFloat ? 1e-6 : 1e-2);
        }
        expect_gradients("rotation", [&] { return rotate_pairs(view(), cosine, sine, pairing); },
                         {{"x", x}});
      }
    }
  }
}

TEST(property, position_baselines_rotation_in_low_precision) {
  const Tensor x = numbers({2, 2, 9, 16}, 7);
  const Tensor positions = at::arange(9) + 4000;
  for (const char* style : {"half", "interleaved"}) {
    const auto method = rotary({{"style", style}}, 16);
    const Tensor exact = method->rotate(x, positions);
    expect_close(style, method->rotate(x.to(at::kFloat), positions).to(at::kDouble), exact, 1e-6);
    const Tensor low = method->rotate(x.to(at::kBFloat16), positions);
    EXPECT_EQ(low.scalar_type(), at::kBFloat16);
    expect_close(style, low.to(at::kDouble), exact, 1e-2);
  }
}

TEST(property, position_baselines_rotation_of_ragged_rows) {
  const Tensor x = numbers({2, 2, 4, 8}, 8);
  const Tensor positions = at::stack({at::arange(4), at::arange(4) + 37});
  for (const Table& options :
       {Table{}, Table{{"columns", int64_t{3}}},
        Table{{"scaling", "dynamic"}, {"factor", 2.0}, {"original_length", int64_t{16}}}}) {
    const auto method = rotary(options, 8);
    const Tensor together = method->rotate(x, positions);
    for (int64_t b = 0; b < 2; ++b) {
      const Tensor alone = method->rotate(x.narrow(0, b, 1), positions[b]);
      expect_close("row", together.narrow(0, b, 1), alone, 1e-14);
    }
  }
}

TEST(property, position_baselines_rotation_of_part_of_a_head) {
  const Tensor x = numbers({1, 2, 4, 10}, 9);
  const Tensor positions = at::arange(4) + 1;
  for (const char* style : {"half", "interleaved"}) {
    const Tensor part =
        rotary({{"style", style}, {"rotary_dim", int64_t{4}}}, 10)->rotate(x, positions);
    EXPECT_TRUE(at::equal(part.narrow(-1, 4, 6), x.narrow(-1, 4, 6)));
    const Tensor alone = rotary({{"style", style}}, 4)->rotate(x.narrow(-1, 0, 4), positions);
    expect_close(style, part.narrow(-1, 0, 4), alone, 1e-14);
  }
}

TEST(property, position_baselines_rotation_on_a_grid) {
  const int64_t columns = 5;
  const Tensor x = numbers({1, 2, 15, 20}, 10);
  const Tensor positions = at::arange(15);
  const Tensor rows = at::floor_divide(positions, columns);
  for (const char* style : {"half", "interleaved"}) {
    const auto grid =
        rotary({{"style", style}, {"columns", columns}, {"rotary_dim", int64_t{16}}}, 20);
    const auto line = rotary({{"style", style}}, 8);
    const Tensor turned = grid->rotate(x, positions);
    expect_close("rows", turned.narrow(-1, 0, 8), line->rotate(x.narrow(-1, 0, 8), rows), 1e-14);
    expect_close("columns", turned.narrow(-1, 8, 8),
                 line->rotate(x.narrow(-1, 8, 8), at::remainder(positions, columns)), 1e-14);
    EXPECT_TRUE(at::equal(turned.narrow(-1, 16, 4), x.narrow(-1, 16, 4)));
  }
}

TEST(property, position_baselines_scalings) {
  RotaryOptions o;
  const std::vector<double> plain = inverse_frequencies(o, 64, 0);
  o.factor = 4.0;
  o.original_length = 2048;
  for (const char* scaling : {"linear", "ntk", "yarn", "llama3"}) {
    o.scaling = scaling;
    const std::vector<double> scaled = inverse_frequencies(o, 64, 0);
    EXPECT_NEAR(scaled.back() * 4.0, plain.back(), 1e-12) << scaling;
    EXPECT_EQ(scaled.front() == plain.front(), std::string(scaling) != "linear") << scaling;
  }
  o.scaling = "dynamic";
  EXPECT_EQ(inverse_frequencies(o, 64, 2048), plain);
  EXPECT_LT(inverse_frequencies(o, 64, 4096).back(), plain.back());
  EXPECT_EQ(attention_factor(o), 1.0);
  o.scaling = "yarn";
  EXPECT_NEAR(attention_factor(o), 0.1 * std::log(4.0) + 1.0, 1e-15);
  o.mscale = o.mscale_all_dim = 0.7;
  EXPECT_EQ(attention_factor(o), 1.0);
  o.attention_factor = 1.25;
  EXPECT_EQ(attention_factor(o), 1.25);
}

TEST(property, position_baselines_tables_follow_the_positions) {
  const auto method = rotary({}, 8);
  const Tensor x = numbers({1, 2, 3, 8}, 11);
  const Tensor positions = at::arange(3);
  const Tensor before = method->rotate(x, positions).clone();
  Tensor(positions).add_(5);
  const Tensor after = method->rotate(x, positions);
  expect_close("moved in place", after, rotary({}, 8)->rotate(x, at::arange(3) + 5), 1e-14);
  EXPECT_FALSE(at::equal(before, after));
}

TEST(unit, rotary_options) {
  const auto says = [](const Table& options, int64_t head_width, const std::string& key) {
    test::expect_error([&] { rotary(options, head_width); }, Fault::request,
                       {"position." + key + ":"});
  };
  says({{"rotary_dim", int64_t{3}}}, 8, "rotary_dim");
  says({{"rotary_dim", int64_t{0}}}, 8, "rotary_dim");
  says({{"rotary_dim", int64_t{10}}}, 8, "rotary_dim");
  says({}, 7, "rotary_dim");
  says({{"columns", int64_t{2}}}, 6, "rotary_dim");
  says({{"factor", 0.5}}, 8, "factor");
  says({{"style", "whole"}}, 8, "style");
  says({{"base", 1.0}}, 8, "base");
  says({{"scaling", "longer"}}, 8, "scaling");
  for (const char* scaling : {"dynamic", "yarn", "llama3"})
    says({{"scaling", scaling}, {"factor", 2.0}}, 8, "original_length");
  says({{"mscale", 1.0}}, 8, "mscale");
  says({{"high", 0.5}}, 8, "high");
  EXPECT_TRUE(Choice<Position>("rotary").traits().rotates);
}

}  // namespace
}  // namespace formwork

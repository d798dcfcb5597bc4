// The positions that are added to tokens or to scores.
#include "methods/position/position.h"

#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <set>

#include "methods/position/alibi.h"
#include "methods/position/sinusoidal.h"
#include "methods/position/t5_relative.h"
#include "methods/position/toeplitz.h"
#include "support/golden.h"
#include "support/gradcheck.h"
#include "support/refusal.h"

namespace formwork {
namespace {

std::shared_ptr<Position> build(const std::string& kind, const Table& options, int64_t width,
                                int64_t heads = 2, bool causal = false, int64_t length = 0) {
  PositionSite site;
  site.width = width;
  site.heads = heads;
  site.head_width = width / heads;
  site.causal = causal;
  site.length = length;
  return Choice<Position>(kind).set(options).make(site);
}

TEST(property, position_baselines_none_changes_nothing) {
  const auto method = build("none", {}, 8);
  const Tensor x = numbers({2, 3, 8}, 1);
  EXPECT_TRUE(at::equal(method->add(x, at::arange(3)), x));
  EXPECT_EQ(method->parameter_count(), 0);
  const Position::Traits traits = Choice<Position>("none").traits();
  EXPECT_FALSE(traits.adds || traits.rotates || traits.biases);
}

TEST(property, position_baselines_sinusoidal_products_are_relative) {
  for (const char* layout : {"interleaved", "concat"}) {
    const Tensor e = sinusoidal_table(at::arange(40), 16, 10000.0, layout);
    expect_close(layout, e.square().sum(-1), at::full({40}, 8.0, at::kDouble), 1e-12);
    const Tensor products = at::matmul(e, e.t());
    expect_close(layout, products.slice(0, 1).slice(1, 1), products.slice(0, 0, -1).slice(1, 0, -1),
                 1e-12);
  }
}

TEST(property, position_baselines_sinusoidal_layouts) {
  const Tensor odd = sinusoidal_table(at::arange(5), 7, 100.0, "interleaved");
  const Tensor even = sinusoidal_table(at::arange(5), 8, 100.0, "concat");
  EXPECT_EQ(odd.size(1), 7);
  expect_close("first sine", odd.select(1, 0), even.select(1, 0), 1e-14);
  const Tensor released = sinusoidal_table(at::arange(5), 8, 100.0, "tensor2tensor");
  expect_close("slowest", released.select(1, 3), (at::arange(5).to(at::kDouble) / 100.0).sin());
  const Tensor x = numbers({2, 5, 8}, 2);
  const Tensor positions = at::stack({at::arange(5), at::arange(5) + 9});
  const Tensor scaled = build("sinusoidal", {{"scale_embedding", true}}, 8)->add(x, positions);
  expect_close("scaled", scaled,
               x * std::sqrt(8.0) + sinusoidal_table(positions, 8, 10000.0, "interleaved"), 1e-14);
  for (const char* layout : {"concat", "tensor2tensor"}) {
    test::expect_error(
        [&] {
          build("sinusoidal", {{"layout", layout}}, 7, 1);
        },
        Fault::request, {"position.layout"});
  }
  test::expect_error(
      [] {
        build("sinusoidal", {{"layout", "tensor2tensor"}}, 2);
      },
      Fault::request, {});
}

TEST(property, position_baselines_learned_line) {
  const auto method = build("learned", {{"max_positions", int64_t{6}}}, 4);
  method->to(at::kDouble);
  Tensor x = random_leaf({3, 5, 4}, 3);
  const Tensor table = method->named_tensors().at("weight");
  EXPECT_EQ(table.sizes(), at::IntArrayRef({6, 4}));
  const Tensor positions = at::stack({at::arange(5), at::arange(5) + 1, at::zeros({5}, at::kLong)});
  expect_close("sum", method->add(x, positions), x + table.detach().index({positions}), 1e-15);
  expect_gradients("learned", [&] { return method->add(x, positions); },
                   {{"x", x}, {"table", table}});
  test::expect_error([&] { method->add(x, at::arange(5) + 2); }, Fault::request,
                     {"position beyond table", "max_positions"});
  EXPECT_EQ(build("learned", {}, 4)->named_tensors().at("weight").size(0), 1024);
  EXPECT_EQ(build("learned", {}, 4, 2, false, 17)->named_tensors().at("weight").size(0), 17);
  EXPECT_FALSE(Choice<Position>("learned").traits().any_length);
}

TEST(property, position_baselines_learned_grid) {
  const Table grid{{"rows", int64_t{2}}, {"columns", int64_t{3}}};
  const Tensor x = at::zeros({1, 6, 4}, at::kDouble);
  for (const char* kind : {"cell", "row_column"}) {
    Table options = grid;
    options.emplace_back("grid", kind);
    const auto method = build("learned", options, 4);
    method->to(at::kDouble);
    const Tensor small = method->add(x, at::arange(6)).detach();
    test::expect_error([&] { method->add(x, at::arange(6) + 1); }, Fault::request, {});
    options.emplace_back("input_rows", int64_t{4});
    options.emplace_back("input_columns", int64_t{5});
    const auto resized = build("learned", options, 4);
    resized->to(at::kDouble);
    NamedLeaves leaves;
    for (const auto& [name, tensor] : resized->named_tensors()) {
      const c10::NoGradGuard no_grad;
      Tensor(tensor).copy_(method->named_tensors().at(name));
      leaves.emplace_back(name, tensor);
    }
    const Tensor zeros = at::zeros({1, 20, 4}, at::kDouble);
    const Tensor image = small.view({2, 3, 4}).permute({2, 0, 1}).unsqueeze(0);
    const Tensor expected =
        at::upsample_bilinear2d(image, {4, 5}, false)[0].permute({1, 2, 0}).reshape({1, 20, 4});
    expect_close(kind, resized->add(zeros, at::arange(20)), expected, 1e-13);
    expect_gradients(
        kind, [&] { return resized->add(zeros, at::arange(20)); }, leaves);
  }
  const auto says = [](const Table& options, const std::string& key) {
    test::expect_error([&] { build("learned", options, 4); }, Fault::request, {"position." + key});
  };
  says({{"grid", "cell"}}, "rows");
  says({{"grid", "cell"}, {"rows", int64_t{2}}}, "columns");
  says({{"rows", int64_t{2}}}, "rows");
  says({{"input_rows", int64_t{2}}}, "input_rows");
  says({{"max_positions", int64_t{0}}}, "max_positions");
}

TEST(property, position_baselines_alibi) {
  const auto method = build("alibi", {}, 12, 6);
  const Tensor run = at::arange(5) + 3;
  const Tensor bias = method->bias(run, at::arange(9), at::kDouble);
  const Tensor distance = (at::arange(9).unsqueeze(0) - run.unsqueeze(1)).abs();
  const std::vector<double> slopes = alibi_slopes(6);
  for (int64_t h = 0; h < 6; ++h) expect_close("bias", bias[h], distance * -slopes[h], 1e-14);
  EXPECT_EQ(slopes[0], 0.25);
  EXPECT_EQ(slopes[4], 0.5);
  const Tensor rows = at::stack({run, run + 4});
  const Tensor keys = at::stack({at::arange(9), at::arange(9) + 4});
  expect_close("rows", method->bias(rows, keys, at::kDouble), at::stack({bias, bias}), 1e-14);
  expect_close("step", method->bias(run.narrow(0, 4, 1), at::arange(9), at::kDouble),
               bias.narrow(1, 4, 1), 1e-14);
  expect_close("diagonals", from_diagonals(method->diagonals(7, at::kDouble), 7, 7),
               method->bias(at::arange(7), at::arange(7), at::kDouble), 1e-14);
  EXPECT_EQ(method->bias(run, run).scalar_type(), at::kFloat);
  EXPECT_TRUE(Choice<Position>("alibi").traits().toeplitz);
}

TEST(property, position_baselines_t5_buckets) {
  const Tensor far = at::arange(-1000, 1001);
  for (const bool bidirectional : {true, false}) {
    const Tensor bucket = t5_bucket(far, bidirectional, 32, 128);
    EXPECT_EQ(bucket.min().item<int64_t>(), 0);
    EXPECT_EQ(bucket.max().item<int64_t>(), 31);
    EXPECT_EQ(t5_bucket(at::tensor({int64_t{0}}), bidirectional, 32, 128).item<int64_t>(), 0);
    const Tensor past = bucket.slice(0, 0, 1001);
    EXPECT_TRUE((past.slice(0, 1) <= past.slice(0, 0, -1)).all().item<bool>());
  }
  EXPECT_EQ(t5_bucket(at::tensor({int64_t{5}}), false, 32, 128).item<int64_t>(), 0);
  EXPECT_EQ(t5_bucket(at::tensor({int64_t{5}}), true, 32, 128).item<int64_t>(), 21);
}

TEST(property, position_baselines_t5_bias) {
  for (const bool causal : {false, true}) {
    const auto method = build(
        "t5_relative", {{"num_buckets", int64_t{8}}, {"max_distance", int64_t{20}}}, 12, 3, causal);
    method->to(at::kDouble);
    const Tensor table = method->named_tensors().at("weight");
    EXPECT_EQ(table.sizes(), at::IntArrayRef({8, 3}));
    const Tensor query = at::arange(6) + 40, key = at::arange(46);
    const Tensor by_run = method->bias(query, key, at::kDouble);
    const Tensor rows = method->bias(query.unsqueeze(0), key.unsqueeze(0), at::kDouble);
    EXPECT_EQ(rows.sizes(), at::IntArrayRef({1, 3, 6, 46}));
    EXPECT_TRUE(at::equal(by_run, rows[0]));
    expect_gradients("by diagonals", [&] { return method->bias(query, key, at::kDouble); },
                     {{"table", table}});
    expect_gradients("by entries",
                     [&] { return method->bias(query.unsqueeze(0), key, at::kDouble); },
                     {{"table", table}});
    EXPECT_TRUE(at::equal(from_diagonals(method->diagonals(6, at::kDouble), 6, 6),
                          method->bias(query, query, at::kDouble)));
  }
  EXPECT_TRUE(Choice<Position>("t5_relative").traits().shared);
  EXPECT_FALSE(Choice<Position>("t5_relative").set({{"share", false}}).traits().shared);
  const auto says = [](const Table& options, const std::string& key) {
    test::expect_error([&] { build("t5_relative", options, 12); }, Fault::request,
                       {"position." + key});
  };
  says({{"num_buckets", int64_t{7}}}, "num_buckets");
  says({{"num_buckets", int64_t{6}}}, "num_buckets");
  says({{"num_buckets", int64_t{2}}}, "num_buckets");
  says({{"max_distance", int64_t{16}}}, "max_distance");
}

TEST(property, position_baselines_toeplitz) {
  Tensor diagonals = random_leaf({2, 8}, 5);
  const Tensor full = from_diagonals(diagonals, 3, 6);
  for (int64_t i = 0; i < 3; ++i)
    for (int64_t j = 0; j < 6; ++j)
      EXPECT_TRUE(at::equal(full.select(1, i).select(1, j), diagonals.select(1, 2 - i + j)));
  for (const auto& [queries, keys] : {std::pair<int64_t, int64_t>{3, 6}, {8, 1}, {1, 8}, {6, 3}})
    expect_gradients("toeplitz",
                     [&, q = queries, k = keys] { return from_diagonals(diagonals, q, k); },
                     {{"diagonals", diagonals}});
  EXPECT_EQ(start_of_run(at::arange(4) + 7), 7);
  EXPECT_FALSE(start_of_run(at::arange(4) * 2).has_value());
  EXPECT_FALSE(start_of_run(at::zeros({1, 4}, at::kLong)).has_value());
}

}  // namespace
}  // namespace formwork

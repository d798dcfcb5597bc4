// Sliced group self-attention: the properties of specification sret.
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "support/gradcheck.h"
#include "support/mixers.h"
#include "support/tiny_model.h"

namespace formwork::test {
namespace {

MixerCase sliced_case(Table options, bool causal = false, const std::string& position = "none") {
  MixerCase made{"sliced", std::move(options), causal};
  made.position = position;
  return made;
}
MixerCase plain_case(bool causal = false, const std::string& position = "none") {
  MixerCase made{"softmax", {{"bias", true}}, causal};
  made.position = position;
  return made;
}

Value list_of(const std::vector<int64_t>& numbers) {
  List list;
  for (const int64_t number : numbers) list.emplace_back(number);
  return Value(list);
}

/// forward as the `recursion`-th further application of a block.
Tensor recur(Mixer& mixer, const Tensor& x, int64_t recursion = 1, const Tensor& valid = {}) {
  Stream stream;
  stream.recursion = recursion;
  stream.valid = valid;
  return mixer.forward(x, stream);
}

constexpr const char* kPermutations[] = {"random_train_fixed_eval", "random", "fixed", "stride"};

TEST(property, sliced_with_one_group_is_softmax_attention) {
  const Tensor x = random_tensor({2, 7, 12}, 1);
  for (const bool causal : {false, true})
    for (const char* permutation : kPermutations) {
      const auto sliced = sliced_case({{"permutation", permutation}}, causal).make();
      const auto plain = plain_case(causal).make();
      expect_same_bits("first", run(*sliced, x), run(*plain, x));
      expect_same_bits("again", recur(*sliced, x), run(*plain, x));
    }
}

/// What softmax attention over the groups of `order` alone gives, tokens in their own places.
Tensor by_groups(Mixer& plain, const Tensor& x, const std::vector<int64_t>& order, int64_t groups) {
  const Tensor places = at::tensor(order).view({groups, -1});
  Tensor y = at::zeros_like(x);
  for (int64_t g = 0; g < groups; ++g) {
    const Tensor group = std::get<0>(places[g].sort());
    Stream stream;
    stream.positions = group;
    y = y.index_copy(1, group, plain.forward(x.index_select(1, group), stream));
  }
  return y;
}

const std::vector<int64_t> kNeighbours{0, 1, 2, 3, 4, 5, 6, 7};
const std::vector<int64_t> kMixed{5, 0, 7, 2, 1, 6, 3, 4};

TEST(property, sliced_is_attention_within_groups) {
  const Tensor x = random_tensor({3, 8, 12}, 2);
  for (const bool causal : {false, true})
    for (const char* position : {"none", "rotary", "alibi", "t5_relative"}) {
      SCOPED_TRACE(position);
      const auto plain = plain_case(causal, position).make();
      const auto sliced = sliced_case({{"groups1", int64_t{4}},
                                       {"groups2", int64_t{2}},
                                       {"permutation", "given"},
                                       {"order", list_of(kMixed)}},
                                      causal, position)
                              .make();
      expect_near("neighbours", run(*sliced, x), by_groups(*plain, x, kNeighbours, 4));
      expect_near("permuted", recur(*sliced, x), by_groups(*plain, x, kMixed, 2));
    }
}

TEST(property, sliced_strides_interleave) {
  const Tensor x = random_tensor({1, 8, 12}, 3);
  const auto sliced = sliced_case({{"groups2", int64_t{2}}, {"permutation", "stride"}}).make();
  const auto plain = plain_case().make();
  expect_near("stride", recur(*sliced, x), by_groups(*plain, x, {0, 2, 4, 6, 1, 3, 5, 7}, 2));
}

TEST(property, sliced_orders_follow_the_recursion) {
  std::vector<int64_t> both = kMixed;
  both.insert(both.end(), kNeighbours.begin(), kNeighbours.end());
  const auto sliced =
      sliced_case({{"groups2", int64_t{4}}, {"permutation", "given"}, {"order", list_of(both)}})
          .make();
  const auto plain = plain_case().make();
  const Tensor x = random_tensor({2, 8, 12}, 4);
  expect_near("first", recur(*sliced, x, 1), by_groups(*plain, x, kMixed, 4));
  expect_near("second", recur(*sliced, x, 2), by_groups(*plain, x, kNeighbours, 4));
  expect_near("third", recur(*sliced, x, 3), by_groups(*plain, x, kMixed, 4));
}

TEST(property, sliced_groups_do_not_see_each_other) {
  const auto sliced =
      sliced_case({{"groups1", int64_t{4}}, {"groups2", int64_t{2}}, {"permutation", "fixed"}})
          .make();
  const c10::NoGradGuard no_grad;
  const Tensor x = random_tensor({2, 8, 12}, 5);
  Tensor changed = x.clone();
  changed.select(1, 3).add_(1.0);
  const auto touched = [](const Tensor& a, const Tensor& b) {
    return a.ne(b).any(-1).any(0).sum().item<int64_t>();
  };
  const Tensor first = run(*sliced, x), other = run(*sliced, changed);
  EXPECT_EQ(touched(first, other), 2);
  EXPECT_TRUE(first.select(1, 2).ne(other.select(1, 2)).any().item<bool>());
  EXPECT_EQ(touched(recur(*sliced, x), recur(*sliced, changed)), 4);
}

TEST(property, sliced_permutations_are_permutations) {
  const c10::NoGradGuard no_grad;
  const Tensor x = random_tensor({1, 12, 12}, 6);
  for (const char* permutation : kPermutations)
    for (const bool training : {true, false}) {
      SCOPED_TRACE(permutation);
      const auto sliced =
          sliced_case({{"groups2", int64_t{3}}, {"permutation", permutation}}).make();
      sliced->train(training);
      at::manual_seed(1);
      const Tensor once = recur(*sliced, x), twice = recur(*sliced, x);
      const bool random = std::string(permutation) == "random" ||
                          (training && std::string(permutation) == "random_train_fixed_eval");
      EXPECT_EQ(at::equal(once, twice), !random);
      const auto other =
          sliced_case({{"groups2", int64_t{3}}, {"permutation", permutation}, {"seed", int64_t{2}}})
              .make();
      other->train(training);
      if (!random && std::string(permutation) != "stride") {
        EXPECT_FALSE(at::equal(once, recur(*other, x)));
        EXPECT_FALSE(at::equal(once, recur(*sliced, x, 2))) << "recursions are permuted alike";
      }
    }
}

TEST(property, sliced_padding_does_not_matter) {
  const c10::NoGradGuard no_grad;
  const Tensor valid = lengths_mask({5, 8}, 8);
  const Tensor x = random_tensor({2, 8, 12}, 7);
  const Tensor other = at::where(valid.unsqueeze(-1), x, random_tensor({2, 8, 12}, 8));
  for (const bool causal : {false, true}) {
    const auto sliced =
        sliced_case({{"groups1", int64_t{4}}, {"groups2", int64_t{2}}, {"permutation", "fixed"}},
                    causal)
            .make();
    const Tensor shown = valid.unsqueeze(-1);
    expect_same_bits("first", run(*sliced, x, valid).masked_select(shown),
                     run(*sliced, other, valid).masked_select(shown));
    expect_same_bits("again", recur(*sliced, x, 1, valid).masked_select(shown),
                     recur(*sliced, other, 1, valid).masked_select(shown));
    // The last group of row 0 holds no real token, and gives no NaN.
    EXPECT_TRUE(at::isfinite(run(*sliced, x, valid)).all().item<bool>());
  }
}

TEST(property, sliced_sees_no_future) {
  const c10::NoGradGuard no_grad;
  const auto sliced =
      sliced_case({{"groups1", int64_t{2}}, {"groups2", int64_t{2}}, {"permutation", "fixed"}},
                  true)
          .make();
  const Tensor x = random_tensor({1, 8, 12}, 9);
  for (int64_t j = 0; j < 8; ++j) {
    Tensor changed = x.clone();
    changed.select(1, j).add_(1.0);
    for (const int64_t recursion : {0, 1}) {
      const Tensor a = recur(*sliced, x, recursion), b = recur(*sliced, changed, recursion);
      expect_same_bits("the past", a.slice(1, 0, j), b.slice(1, 0, j));
      EXPECT_FALSE(at::equal(a.select(1, j), b.select(1, j)));
    }
  }
}

TEST(property, sliced_gradients) {
  const auto sliced = sliced_case({{"groups1", int64_t{2}},
                                   {"groups2", int64_t{4}},
                                   {"permutation", "given"},
                                   {"order", list_of(kMixed)}})
                          .make();
  const Tensor x = random_leaf({2, 8, 12}, 10);
  NamedLeaves leaves{{"x", x}};
  for (const Parameter& p : sliced->parameters()) leaves.emplace_back(p.name, p.tensor);
  expect_gradients(
      "first", [&] { return run(*sliced, x); }, leaves);
  expect_gradients(
      "again", [&] { return recur(*sliced, x); }, leaves);
}

TEST(property, sliced_decodes_without_groups_only) {
  check_decoding(*sliced_case({}, true, "rotary").make(), 12);
  for (const char* key : {"groups1", "groups2"}) {
    const auto sliced = sliced_case({{key, int64_t{2}}}, true).make();
    expect_refused([&] { sliced->make_state(1, 8, at::kDouble, at::kCPU); }, "decode");
  }
  expect_refused([] { sliced_case({}).make()->make_state(1, 8, at::kDouble, at::kCPU); }, "causal");
}

TEST(unit, sliced_refusals) {
  const Tensor x = random_tensor({1, 9, 12}, 11);
  expect_refused(
      [&] {
        run(*sliced_case({{"groups1", int64_t{2}}}).make(), x);
      },
      "model.mixer.groups1: found 2, but there are 9 tokens");
  expect_refused(
      [&] {
        recur(*sliced_case({{"groups2", int64_t{4}}}).make(), x);
      },
      "model.mixer.groups2: found 4");
  expect_refused(
      [] {
        Site site = plain_site(12, 2);
        site.length = 9;
        Choice<Mixer>("sliced").set({{"groups2", int64_t{2}}}).make(site);
      },
      "model.mixer.groups2: found 2, but there are 9 tokens");
  expect_refused([] { sliced_case({{"permutation", "given"}}).make(); }, "order");
  expect_refused([] { sliced_case({{"order", list_of({1, 0})}}).make(); }, "order");
  const auto with = [&](const std::vector<int64_t>& order) {
    const auto sliced =
        sliced_case({{"groups2", int64_t{3}}, {"permutation", "given"}, {"order", list_of(order)}})
            .make();
    recur(*sliced, x);
  };
  expect_refused([&] { with({0, 1, 2}); }, "found 3 numbers for 9 tokens");
  expect_refused([&] { with({0, 1, 2, 3, 4, 5, 6, 7, 7}); }, "each of 9 tokens once");
}

TEST(property, sliced_shows_attention_of_the_whole_sequence) {
  struct Seen final : Observer {
    std::map<std::string, Tensor> tensors;
    void see(const std::string& point, const Tensor& tensor) override { tensors[point] = tensor; }
  } seen;
  const auto sliced =
      sliced_case({{"groups2", int64_t{2}}, {"permutation", "given"}, {"order", list_of(kMixed)}})
          .make();
  const c10::NoGradGuard no_grad;
  Stream stream;
  stream.recursion = 1;
  stream.place = "here";
  stream.observer = &seen;
  const Tensor x = random_tensor({2, 8, 12}, 12);
  const Tensor y = sliced->forward(x, stream);
  expect_same_bits("observed", y, recur(*sliced, x));
  expect_same_bits("output", seen.tensors.at("here.output"), y);
  const Tensor attention = seen.tensors.at("here.attention"), v = seen.tensors.at("here.value");
  ASSERT_EQ(attention.sizes(), (std::vector<int64_t>{2, 2, 8, 8}));
  ASSERT_EQ(v.sizes(), (std::vector<int64_t>{2, 2, 8, 6}));
  const Tensor scores =
      at::matmul(seen.tensors.at("here.query"), seen.tensors.at("here.key").transpose(-2, -1)) /
      std::sqrt(6.0);
  const Tensor group =
      at::zeros({8}, at::kLong).index_fill(0, at::tensor({1, 6, 3, 4}, at::kLong), 1);
  const Tensor apart = group.unsqueeze(0).ne(group.unsqueeze(1));
  const Tensor expected = scores.masked_fill(apart, -INFINITY);
  expect_near("attention", attention, at::softmax(expected, -1));
  EXPECT_TRUE(at::allclose(seen.tensors.at("here.scores"), expected));
  std::map<std::string, Tensor> maps;
  for (const Parameter& p : sliced->parameters()) maps.emplace(p.name, p.tensor);
  expect_near("value mixed",
              at::linear(at::matmul(attention, v).transpose(1, 2).flatten(2),
                         maps.at("out_proj.weight"), maps.at("out_proj.bias")),
              y);
}

}  // namespace
}  // namespace formwork::test

// property.decode_state.<mixer>: every mixer of this folder that decodes, with every position that
// it honours in another way.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "support/dynamic.h"
#include "support/mixers.h"

namespace formwork::test {
namespace {

struct Named {
  std::string name;
  MixerCase what;
};

std::vector<Named> cases() {
  const Value sliding("sliding"), block("block");
  std::vector<Named> all{
      {"softmax", {"softmax", {}}},
      {"softmax_grouped", {"softmax", {{"kv_heads", int64_t{2}}, {"bias", true}}, true, 16, 4}},
      {"softmax_multi_query",
       {"softmax", {{"kv_heads", int64_t{1}}, {"qk_norm", true}, {"qkv_dim", int64_t{24}}}}},
      {"local_sliding", {"local", {{"mode", sliding}, {"window", int64_t{3}}}}},
      {"local_sliding_slack",
       {"local", {{"mode", sliding}, {"window", int64_t{4}}, {"slack", int64_t{2}}}}},
      {"local_sliding_one", {"local", {{"mode", sliding}, {"window", int64_t{1}}, {"bias", true}}}},
      {"local_block", {"local", {{"mode", block}, {"block_size", int64_t{3}}}}},
      {"local_block_back",
       {"local", {{"block_size", int64_t{3}}, {"look_back", int64_t{2}}, {"slack", int64_t{3}}}}},
      {"linear", {"linear", {{"chunk", int64_t{4}}}}},
      {"linear_relu",
       {"linear", {{"feature_map", Value("relu")}, {"chunk", int64_t{3}}, {"bias", true}}}},
      {"linear_softmax", {"linear", {{"feature_map", Value("softmax")}}}},
  };
  for (const char* position : {"rotary", "alibi", "t5_relative"}) {
    for (const char* base : {"softmax", "local_sliding_slack", "local_block_back", "linear"}) {
      if (std::string(base) == "linear" && std::string(position) != "rotary") continue;
      for (size_t i = 0; i < 11; ++i) {
        if (all[i].name != base) continue;
        Named more = all[i];
        more.name += std::string("_") + position;
        more.what.position = position;
        all.push_back(more);
      }
    }
  }
  return all;
}

const TestSource baseline_decoding([] {
  for (const Named& item : cases())
    add_test("property.decode_state", item.name,
             [item] { check_decoding(*item.what.make(), item.what.width); });
});

TEST(property, decode_state_bytes) {
  const auto bytes = [](const MixerCase& item, at::ScalarType type) {
    return item.make()->make_state(3, 10, type).bytes();
  };
  const MixerCase grouped{"softmax", {{"kv_heads", int64_t{2}}}, true, 16, 4};
  EXPECT_EQ(bytes(grouped, at::kFloat), 3 * 2 * 2 * 4 * 10 * 4);  // 2 Hkv K cap
  const MixerCase sliding{
      "local", {{"mode", Value("sliding")}, {"window", int64_t{5}}, {"slack", int64_t{2}}}};
  EXPECT_EQ(bytes(sliding, at::kBFloat16), 3 * 2 * 12 * (5 + 2) * 2);
  const MixerCase block{"local", {{"block_size", int64_t{4}}, {"look_back", int64_t{1}}}};
  EXPECT_EQ(bytes(block, at::kFloat), 3 * 2 * 12 * 8 * 4);
  const MixerCase linear{"linear", {}};
  EXPECT_EQ(bytes(linear, at::kBFloat16), 3 * 2 * 6 * (6 + 1) * 4);  // sums stay float32
  EXPECT_EQ(bytes(linear, at::kDouble), 3 * 2 * 6 * (6 + 1) * 8);
}

TEST(property, decode_state_bidirectional) {
  for (const char* kind : {"softmax", "local", "linear"}) {
    MixerCase item{kind, {}};
    const auto causal = item.make();
    State state = causal->make_state(1, 8, at::kDouble);
    item.causal = false;
    const auto both = item.make();
    expect_refused([&] { both->make_state(1, 8, at::kDouble); }, "both ways");
    expect_refused([&] { feed(*both, random_tensor({1, 2, 12}, 1), state); }, "both ways");
  }
}

TEST(property, decode_state_cross) {
  const c10::NoGradGuard no_grad;
  const MixerCase item{"softmax", {{"kv_heads", int64_t{1}}}, false, 12, 2, "none", true};
  const auto mixer = item.make();
  Stream stream;
  stream.memory = random_tensor({3, 5, 12}, 1);
  stream.memory_valid = lengths_mask({5, 2, 4}, 5);
  const Tensor x = random_tensor({3, 4, 12}, 2);
  const Tensor full = mixer->forward(x, stream);
  Stream changed = stream;
  changed.memory = stream.memory.masked_fill(stream.memory_valid.logical_not().unsqueeze(-1), 9.0);
  expect_near("padded memory", mixer->forward(x, changed), full, 1e-15);

  State state = mixer->make_state(3, 8, at::kDouble);
  state.begin();
  std::vector<Tensor> steps;
  for (int64_t i = 0; i < 4; ++i)
    steps.push_back(mixer->forward(x.narrow(1, i, 1), stream, &state));
  expect_near("steps", at::cat(steps, 1), full);
  state.rollback();
  state.crop(at::ones({3}, at::kLong));
  State chosen = state.select(at::tensor({2, 1}, at::kLong));
  Stream nothing;
  expect_near("the state holds the memory",
              mixer->forward(x.index_select(0, at::tensor({2, 1}, at::kLong)), nothing, &chosen),
              full.index_select(0, at::tensor({2, 1}, at::kLong)));
  state.reset(1);
  stream.memory = stream.memory.clone();
  stream.memory[1].copy_(random_tensor({5, 12}, 3));
  const Tensor other = mixer->forward(x, stream);
  expect_near("a new row reads its memory", mixer->forward(x, stream, &state), other);
  EXPECT_GT((other[1] - full[1]).abs().max().item<double>(), 1e-3);
}

TEST(property, decode_state_step_costs_no_memory) {
  const c10::NoGradGuard no_grad;
  // The fast path writes in place: the buffers stay where they are.
  for (const MixerCase& item :
       {MixerCase{"softmax", {}}, MixerCase{"local", {{"block_size", int64_t{4}}}},
        MixerCase{"linear", {}}}) {
    const auto mixer = item.make();
    State state = mixer->make_state(2, 16, at::kDouble);
    feed(*mixer, random_tensor({2, 3, 12}, 1), state);
    std::map<std::string, const void*> places;
    for (const auto& [name, tensor] : state.tensors) places[name] = tensor.const_data_ptr();
    feed(*mixer, random_tensor({2, 1, 12}, 2), state);
    for (const auto& [name, tensor] : state.tensors)
      EXPECT_EQ(places.at(name), tensor.const_data_ptr()) << item.kind << " " << name;
  }
}

}  // namespace
}  // namespace formwork::test

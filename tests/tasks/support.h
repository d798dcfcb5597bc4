// Making tasks and looking at their batches.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "core/registry.h"
#include "tasks/task.h"

namespace formwork::test {

inline std::shared_ptr<Task> make_task(const std::string& kind, const Table& options,
                                       uint64_t seed = 1) {
  Choice<Task> choice(kind);
  choice.set(options);
  TaskSite site;
  site.random = RandomStream(seed);
  return choice.make(site);
}

inline bool same(const Tensor& a, const Tensor& b) {
  return a.defined() == b.defined() && (!a.defined() || at::equal(a, b));
}

inline void expect_same(const Batch& a, const Batch& b) {
  EXPECT_TRUE(same(a.input.input, b.input.input));
  EXPECT_TRUE(same(a.input.valid, b.input.valid));
  EXPECT_TRUE(same(a.input.source, b.input.source));
  EXPECT_TRUE(same(a.input.timestamps, b.input.timestamps));
  EXPECT_TRUE(same(a.target, b.target));
  EXPECT_EQ(a.size, b.size);
  EXPECT_EQ(a.tokens, b.tokens);
}

/// Training items are a pure function of seed and index, however they are asked for; another seed
/// gives other ones.
inline void expect_pure(const std::string& kind, const Table& options) {
  const auto task = make_task(kind, options);
  const Batch all = task->training_batch(3, 6);
  ASSERT_EQ(all.size, 6);
  expect_same(all, make_task(kind, options)->training_batch(3, 6));
  task->training_batch(100, 2);
  expect_same(all, task->training_batch(3, 6));
  for (int64_t i = 0; i < 6; ++i) {
    const Batch one = task->training_batch(3 + i, 1);
    EXPECT_TRUE(at::equal(one.input.input[0], all.input.input[i])) << i;
    EXPECT_TRUE(at::equal(one.target[0], all.target[i])) << i;
  }
  const auto other = make_task(kind, options, 2);
  EXPECT_FALSE(at::equal(other->training_batch(3, 6).input.input, all.input.input));
  expect_same(other->validation_batch(0, 2), task->validation_batch(0, 2));
}

/// Every epoch holds every item once, each in another order; `name` tells items apart.
template <class Name>
void expect_epochs(Task& task, Name name) {
  const int64_t items = task.training_items();
  ASSERT_GT(items, 0);
  std::vector<std::string> orders;
  for (int64_t epoch = 0; epoch < 2; ++epoch) {
    std::vector<std::string> names;
    for (int64_t i = 0; i < items; ++i)
      names.push_back(name(task.training_batch(epoch * items + i, 1)));
    std::string order;
    for (const std::string& one : names) order += one + "|";
    orders.push_back(order);
    std::sort(names.begin(), names.end());
    EXPECT_EQ(std::unique(names.begin(), names.end()) - names.begin(), items);
  }
  EXPECT_NE(orders[0], orders[1]);
}

/// Logits whose largest entry is at the given ids.
inline Tensor logits_for(const Tensor& ids, int64_t size) {
  return at::one_hot(ids.clamp_min(0), size).to(at::kFloat).mul(4.0);
}

inline std::string text_of(const Tensor& row) {
  std::string text;
  const Tensor flat = row.flatten().to(at::kDouble).contiguous();
  for (int64_t i = 0; i < flat.numel(); ++i) text += join_text(flat.data_ptr<double>()[i], ",");
  return text;
}

}  // namespace formwork::test

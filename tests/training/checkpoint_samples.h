// Checkpoints made up for tests.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "formats/json.h"
#include "training/checkpoint.h"

namespace formwork::test {

/// A checkpoint whose numbers follow from its step. Filled by hand: operators of libtorch may start
/// threads, which a forked process does not have.
inline Checkpoint sample(int64_t step, int64_t size) {
  const auto ramp = [size](double start) {
    at::Tensor tensor = at::empty({size});
    for (int64_t i = 0; i < size; ++i)
      tensor.mutable_data_ptr<float>()[i] = static_cast<float>(start + 0.25 * (i % 1000));
    return tensor;
  };
  Checkpoint checkpoint;
  checkpoint.step = step;
  checkpoint.model = {{"layers.0.weight", ramp(step)}, {"layers.0.bias", ramp(step + 0.5)}};
  checkpoint.optimizer = {{"first_moment.layers.0.weight", ramp(-step)}};
  checkpoint.recipe = join_text("[train]\nseed = ", step, "\n");
  checkpoint.progress["tokens"] = 32 * step;
  checkpoint.progress["seconds"] = 0.1 * static_cast<double>(step);
  return checkpoint;
}

inline void expect_equal(const TensorMap& actual, const TensorMap& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (const auto& [name, tensor] : expected) {
    ASSERT_TRUE(actual.count(name)) << name;
    EXPECT_TRUE(actual.at(name).equal(tensor)) << name;
  }
}

inline void expect_equal(const Checkpoint& actual, const Checkpoint& expected) {
  EXPECT_EQ(actual.step, expected.step);
  expect_equal(actual.model, expected.model);
  expect_equal(actual.optimizer, expected.optimizer);
  EXPECT_EQ(actual.recipe, expected.recipe);
  EXPECT_EQ(write_json(actual.progress), write_json(expected.progress));
}

}  // namespace formwork::test

// Activation checkpointing: the same bits in less memory. Every method alone:
// tests/contract/checkpointing_contract_test.cpp.
#include "model/activation_checkpointing.h"

#include <ATen/Context.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "support/mixers.h"
#include "support/tiny_model.h"
#include "training/diagnosis.h"
#include "training/trainer.h"

namespace formwork::test {
namespace {

Recipe recipe_of(const std::string& model, const std::string& train) {
  const std::string text =
      "[task]\nkind = \"image\"\nformat = \"gratings\"\nside = 8\ntraining_items = 32\n"
      "validation_items = 8\n[model]\nwidth = 16\nheads = 2\nposition = \"learned\"\n"
      "head.pooling = \"mean\"\nstem = { kind = \"patch\", size = 2 }\n" +
      model + "\n[train]\nbatch = 4\n" + train + "\n[train.budget]\nsteps = 3\n";
  return Recipe::from(parse_toml(text, "test.toml"), "test.toml");
}

const std::string kSret =
    "wiring = { kind = \"scaled\", drop_path = 0.2 }\nnorm = \"layer_norm\"\ndropout = 0.1\n"
    "attention_dropout = 0.1\ndepth_plan = { kind = \"sret\", recursions = 2 }\n"
    "mixer = { kind = \"sliced\", groups1 = 4, groups2 = 2 }\n";

struct Trained {
  std::vector<double> losses;
  std::map<std::string, Tensor> tensors;
};

Trained train(const std::string& model, const std::string& options) {
  Recipe recipe = recipe_of(model, options);
  const std::unique_ptr<Processes> processes = Processes::from_environment();
  Trainer trainer(recipe, *processes);
  Trained trained;
  for (int i = 0; i < 3; ++i) trained.losses.push_back(trainer.step().loss);
  for (const auto& [name, tensor] : trainer.model_tensors())
    trained.tensors.emplace(name, tensor.clone());
  return trained;
}

void expect_same_training(const std::string& model, const std::string& options = "") {
  SCOPED_TRACE(model + options);
  const Trained kept = train(model, options);
  const Trained again = train(model, options + "\nactivation_checkpointing = \"block\"\n");
  EXPECT_EQ(kept.losses, again.losses);
  for (const auto& [name, tensor] : kept.tensors)
    EXPECT_TRUE(at::equal(tensor, again.tensors.at(name))) << name;
}

TEST(property, checkpointing_trains_to_the_same_bits) {
  const std::string depth = "depth = 4\n";
  expect_same_training(depth + kSret);
  expect_same_training(depth + kSret, "accumulate = 2");
  expect_same_training(depth + kSret, "precision = \"bfloat16\"");
  expect_same_training(depth + kSret, "precision = \"float64\"");
  const std::string shared = depth + "dropout = 0.1\ndepth_plan = { kind = \"shared\" }\n";
  for (const char* norm : {"batch_norm", "prepbn", "power_norm", "unified_norm"})
    expect_same_training(shared + "norm = \"" + norm + "\"\n", "accumulate = 2");
  expect_same_training(shared + "norm = { kind = \"prepbn\", counter_every = 2, total_step = 4 }\n",
                       "accumulate = 2");
  expect_same_training(shared + "linear = \"sigma_reparam\"\n");
  for (const char* wiring : {"post", "b2t", "peri"})
    expect_same_training(shared + "wiring = \"" + wiring + "\"\n");
}

/// Encoder's output read by every layer of a decoder, and a table of positions that all share.
TEST(property, checkpointing_encoder_decoder) {
  TaskForm task = token_task("encoder_decoder");
  task.source = task.input;
  ModelOptions options = tiny_options(task, [](ModelOptions& o) {
    o.dropout = o.attention_dropout = 0.1;
    o.position.select("t5_relative", "position");
  });
  std::map<std::string, Tensor> gradients[2];
  Tensor outputs[2];
  for (const bool on : {false, true}) {
    Model model(options, task, 4);
    model.checkpoint_activations(on);
    ModelInput input;
    input.input = tiny_tokens(1);
    input.source = tiny_tokens(2);
    at::manual_seed(3);
    outputs[on] = model.forward(input).y;
    outputs[on].square().mean().backward();
    for (const Parameter& p : model.parameters()) gradients[on].emplace(p.name, p.tensor.grad());
  }
  EXPECT_TRUE(at::equal(outputs[0], outputs[1]));
  for (const auto& [name, tensor] : gradients[0])
    EXPECT_TRUE(at::equal(tensor, gradients[1].at(name))) << name;
}

/// What a wiring carries and adds to the losses, and a branch that no gradient comes back through.
TEST(property, checkpointing_carries_the_whole_stream) {
  const Tensor weight = random_tensor({4, 4}, 1).requires_grad_(true);
  const auto part = [&](Stream& stream) {
    Tensor& momentum = stream.carried["momentum"];
    const Tensor before = stream.carried.at("fixed");
    momentum = at::tanh(at::matmul(momentum, weight)) + at::sin(stream.x) * before;
    stream.losses.push_back(at::exp(stream.x).mean());
    stream.x = at::dropout(at::sigmoid(stream.x * momentum), 0.3, true);
    const Tensor unused = at::exp(at::matmul(stream.x, weight));
  };
  std::vector<Tensor> results[2];
  for (const bool on : {false, true}) {
    const Tensor x = random_tensor({2, 3, 4}, 2).requires_grad_(true);
    const Tensor start = random_tensor({2, 3, 4}, 3).requires_grad_(true);
    Stream stream;
    stream.x = x;
    stream.carried["momentum"] = start;
    stream.carried["fixed"] = random_tensor({2, 3, 4}, 4);
    at::manual_seed(5);
    for (int i = 0; i < 3; ++i) on ? run_checkpointed(stream, {}, part) : part(stream);
    at::rand({1});
    EXPECT_EQ(stream.losses.size(), 3u);
    Tensor loss = (stream.x * stream.carried.at("momentum")).sum();
    for (const Tensor& extra : stream.losses) loss = loss + extra;
    const auto gradients = torch::autograd::grad({loss}, {x, start, weight});
    results[on] = {loss, gradients[0], gradients[1], gradients[2], at::rand({3})};
  }
  for (size_t i = 0; i < results[0].size(); ++i)
    EXPECT_TRUE(at::equal(results[0][i], results[1][i])) << i;
}

TEST(property, checkpointing_repeats_what_a_part_counts) {
  struct Counting final : Module {
    Tensor total = add_buffer("total", at::zeros({1}, at::kDouble));
    int64_t count = 0;
    std::optional<int64_t> passes() const override { return count; }
    void set_passes(int64_t now) override { count = now; }
  } counting;
  int runs = 0;
  const Kept kept = kept_by({&counting});
  const Tensor x = at::ones({1, 1, 1}, at::kDouble).requires_grad_(true);
  Stream stream;
  stream.x = x;
  for (int i = 0; i < 3; ++i)
    run_checkpointed(stream, kept, [&](Stream& on) {
      ++runs;
      ++counting.count;
      counting.total.add_(static_cast<double>(counting.count));
      // A factor that no one saves but the pass itself: 2·1, 3·3 and 4·6.
      on.x = on.x * (on.x.detach() * 0 + (counting.count + 1) * counting.total);
    });
  EXPECT_EQ(runs, 3);
  stream.x.sum().backward();
  EXPECT_EQ(runs, 6);
  EXPECT_EQ(x.grad().item<double>(), 2.0 * 9.0 * 24.0);
  EXPECT_EQ(counting.count, 3);
  EXPECT_EQ(counting.total.item<double>(), 6.0);
}

TEST(fault, checkpointing_tells_of_a_part_that_changes) {
  int runs = 0;
  Stream stream;
  stream.x = at::ones({1, 2, 3}).requires_grad_(true);
  run_checkpointed(stream, {}, [&](Stream& on) {
    on.x = at::sigmoid(on.x);
    if (++runs > 1) on.x = at::sigmoid(on.x);
  });
  expect_refused([&] { stream.x.sum().backward(); }, "train.activation_checkpointing");
}

TEST(property, checkpointing_without_gradients_runs_once) {
  const c10::NoGradGuard no_grad;
  Recipe recipe = recipe_of("depth = 4\n" + kSret, "activation_checkpointing = \"block\"");
  const std::unique_ptr<Processes> processes = Processes::from_environment();
  Trainer trainer(recipe, *processes);
  const Batch batch = trainer.task().validation_batch(0, 2);
  trainer.model().eval();
  const Tensor y = trainer.model().forward(batch.input).y;
  trainer.model().checkpoint_activations(false);
  EXPECT_TRUE(at::equal(y, trainer.model().forward(batch.input).y));
}

double peak_of(int64_t depth, bool checkpointing) {
  Recipe recipe = recipe_of(join_text("depth = ", depth, "\n") + kSret,
                            checkpointing ? "activation_checkpointing = \"block\"" : "");
  const std::unique_ptr<Processes> processes = Processes::from_environment();
  Trainer trainer(recipe, *processes);
  return bytes_of_pass(trainer.model(), trainer.task(), trainer.task().training_batch(0, 4),
                       "float32");
}

/// 1,000 applications of blocks: each costs the vectors before it and the state of the random
/// numbers that it draws, not its activations.
TEST(property, checkpointing_bounds_the_memory_of_a_thousand_layers) {
  const double vectors = 4 * 16 * 16 * sizeof(float);
  const double generator = 5056, small = 2048;
  const double hundred = peak_of(100, true), thousand = peak_of(1000, true);
  const double each = (thousand - hundred) / 900;
  EXPECT_LT(each, vectors + generator + small);
  EXPECT_LT(10 * each, (peak_of(100, false) - peak_of(50, false)) / 50);
}

TEST(property, checkpointing_trains_a_thousand_layers) {
  Recipe recipe = recipe_of("depth = 1000\n" + kSret, "activation_checkpointing = \"block\"");
  const std::unique_ptr<Processes> processes = Processes::from_environment();
  Trainer trainer(recipe, *processes);
  EXPECT_TRUE(std::isfinite(trainer.step().loss));
  EXPECT_TRUE(std::isfinite(trainer.step().loss));
}

}  // namespace
}  // namespace formwork::test

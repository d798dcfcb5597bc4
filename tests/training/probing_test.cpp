// Probes look and leave everything as it was; what they find in whole models.
#include "training/probing.h"

#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <cmath>

#include "support/refusal.h"
#include "support/temporary_folder.h"
#include "training/inspection.h"
#include "training/metrics_log.h"
#include "training/run.h"
#include "training/trainer.h"

namespace formwork::test {
namespace {

/// Two layers unless `model` says otherwise; an encoder_decoder gets a task that has a source.
std::string recipe_text(const std::string& model, const std::string& train = "") {
  const bool depth = model.find("depth =") != std::string::npos;
  const bool source = model.find("encoder_decoder") != std::string::npos;
  return std::string("[task]\nkind = \"sequence\"\nproblem = \"copy\"\nlength = 16\n") +
         (source ? "source = true\n" : "") +
         "validation_items = 8\n[model]\nwidth = 16\nheads = 2\n" + (depth ? "" : "depth = 2\n") +
         model + "\n[train]\nbatch = 4\nlog_every = 1\n[train.budget]\nsteps = 6\n" + train;
}

Recipe recipe_of(const std::string& model, const std::string& train = "") {
  return Recipe::from(parse_toml(recipe_text(model, train), "test.toml"), "test.toml");
}

/// Every probe that records.
std::vector<std::string> recorded() {
  std::vector<std::string> names;
  for (const std::string& name : Registry<Probe>::instance().names())
    if (Choice<Probe>(name).traits().recorded) names.push_back(name);
  return names;
}

struct Trained {
  std::vector<double> losses;
  std::map<std::string, Tensor> tensors;
  std::vector<Measured> measured;
};

Trained train(const std::string& model, bool probed) {
  Recipe recipe = recipe_of(model);
  recipe.train.probe.kinds = recorded();
  recipe.train.probe.every = 2;
  const std::unique_ptr<Processes> processes = Processes::from_environment();
  Trainer trainer(recipe, *processes);
  Probing probing(recipe, trainer.model(), trainer.task());
  Trained trained;
  for (int64_t step = 1; step <= 6; ++step) {
    const bool due = probed && probing.due(step);
    if (due) probing.before_step();
    trained.losses.push_back(trainer.step().loss);
    if (due) trained.measured.push_back(probing.measure());
  }
  for (const auto& [name, tensor] : trainer.model_tensors())
    trained.tensors[name] = tensor.detach().clone();
  return trained;
}

/// Dropout draws random numbers, batch norm keeps statistics, attention has dropout of its own.
const char* const kModels[] = {
    "dropout = 0.1\nattention_dropout = 0.1\nnorm = \"batch_norm\"\n",
    "dropout = 0.1\nmixer = \"linear\"\nwiring = \"peri\"\nposition = \"learned\"\n",
    "attention_dropout = 0.2\nmixer = {kind = \"local\", mode = \"sliding\", window = 4}\n",
};

TEST(property, probes_leave_training_as_it_is) {
  for (const char* model : kModels) {
    SCOPED_TRACE(model);
    const Trained with = train(model, true), without = train(model, false);
    EXPECT_EQ(with.losses, without.losses);
    ASSERT_EQ(with.tensors.size(), without.tensors.size());
    for (const auto& [name, tensor] : with.tensors)
      EXPECT_TRUE(at::equal(tensor, without.tensors.at(name))) << name;
    ASSERT_EQ(with.measured.size(), 3u);
    EXPECT_TRUE(without.measured.empty());
    for (const auto& [name, values] : with.measured.back())
      for (const double value : values) EXPECT_FALSE(std::isnan(value)) << name;
  }
}

std::vector<ProbeResult> look(LoadedRun& run, std::vector<std::string> probes) {
  InspectionRequest request;
  request.probes = std::move(probes);
  request.items = 4;
  request.batches = 2;
  return inspect(*run.model, *run.task, request);
}

bool says(const Findings& found, const std::string& part) {
  for (const std::string& sentence : found.sentences)
    if (sentence.find(part) != std::string::npos) return true;
  return false;
}

std::string all_sentences(const Findings& found) {
  std::string text;
  for (const std::string& sentence : found.sentences) text += sentence + "\n";
  return text;
}

/// Models built fresh: what they can see does not depend on training.
LoadedRun fresh(const std::string& model) {
  LoadedRun run;
  run.recipe = recipe_of(model);
  run.task = run.recipe.make_task();
  run.model = std::make_shared<Model>(run.recipe.model, run.task->form(), 1);
  run.model->eval();
  return run;
}

TEST(property, inspection_leaves_the_model_as_it_is) {
  LoadedRun run = fresh("dropout = 0.5\nnorm = \"batch_norm\"\n");
  run.model->train();
  Parameter first = run.model->parameters().front();
  first.tensor.mutable_grad() = at::ones_like(first.tensor);
  std::map<std::string, Tensor> before;
  for (const auto& [name, tensor] : run.model->named_tensors()) before[name] = tensor.clone();
  at::manual_seed(7);
  const Tensor expected = at::rand({4});
  at::manual_seed(7);
  look(run, {});
  EXPECT_TRUE(at::equal(at::rand({4}), expected));
  EXPECT_TRUE(run.model->training());
  EXPECT_TRUE(at::equal(first.tensor.grad(), at::ones_like(first.tensor)));
  for (const auto& [name, tensor] : run.model->named_tensors())
    EXPECT_TRUE(at::equal(tensor, before.at(name))) << name;
}

TEST(property, causality_of_whole_models) {
  for (const char* model :
       {"", "mixer = \"linear\"\n", "mixer = {kind = \"local\", block_size = 4}\n"}) {
    LoadedRun run = fresh(model);
    const Findings found = look(run, {"causality"}).at(0).findings;
    EXPECT_TRUE(says(found, "causal: no input can change an earlier output"))
        << model << all_sentences(found);
  }
  LoadedRun encoder = fresh("form = \"encoder\"\n");
  EXPECT_TRUE(says(look(encoder, {"causality"}).at(0).findings, "sees both ways, as it may"));
  LoadedRun blocks = fresh("mixer = {kind = \"local\", block_size = 4}\ndepth = 1\n");
  EXPECT_TRUE(says(look(blocks, {"causality"}).at(0).findings, "links reach 3 tokens back"));
}

TEST(property, permutation_symmetry_of_whole_models) {
  const auto gap = [](const std::string& model) {
    LoadedRun run = fresh("position = \"none\"\ninit = {deviation = 0.25}\n" + model);
    return look(run, {"permutation_symmetry"}).at(0).findings.series.at(0).values.at(0);
  };
  EXPECT_LT(gap("form = \"encoder\"\n"), 1e-5);
  EXPECT_LT(gap("depth = 1\n"), 1e-5) << "one causal layer sees a set";
  EXPECT_GT(gap(""), 1e-3) << "two causal layers do not";
}

TEST(property, attention_shown_is_the_attention_used) {
  // Shown weights times shown values are what the mixer puts through its output map.
  for (const char* model :
       {"", "mixer = \"linear\"\nposition = \"none\"\n", "position = \"alibi\"\n",
        "mixer = {kind = \"local\", block_size = 4, look_back = 1}\n",
        "mixer = {kind = \"local\", mode = \"sliding\", window = 3}\n",
        "form = \"encoder\"\nmixer = {kind = \"local\", mode = \"sliding\", window = 3}\n",
        "mixer = {kind = \"softmax\", kv_heads = 1}\n"}) {
    SCOPED_TRACE(model);
    struct Keep final : Observer {
      std::map<std::string, Tensor> seen;
      void see(const std::string& point, const Tensor& tensor) override { seen[point] = tensor; }
    } keep;
    LoadedRun run = fresh(model);
    run.model->to(at::kDouble);
    const c10::NoGradGuard no_grad;
    Batch batch = run.task->validation_batch(0, 4);
    batch.input.observer = &keep;
    run.model->forward(batch.input);
    for (const char* layer : {"layers.0", "layers.1"}) {
      const Tensor a = keep.seen.at(std::string(layer) + ".attn.attention");
      Tensor v = keep.seen.at(std::string(layer) + ".attn.value");
      if (v.size(1) != a.size(1)) v = v.repeat_interleave(a.size(1) / v.size(1), 1);
      const Tensor mixed = at::matmul(a, v).transpose(1, 2).flatten(2);
      const Tensor weight = run.model->named_tensors().at(std::string(layer) + ".out_proj.weight");
      EXPECT_TRUE(at::allclose(at::linear(mixed, weight),
                               keep.seen.at(std::string(layer) + ".attn.output"), 0.0, 1e-6));
    }
  }
}

TEST(property, models_without_attention_are_told_so) {
  LoadedRun run = fresh("mixer = \"linear\"\n");  // rotary positions: weights may be negative
  const std::vector<ProbeResult> results = look(run, {});
  EXPECT_EQ(results.size(), Registry<Probe>::instance().names().size());
  for (const ProbeResult& result : results) {
    EXPECT_FALSE(result.findings.sentences.empty() && result.findings.figures.empty())
        << result.name;
    EXPECT_FALSE(inspection_text(result).empty());
  }
}

TEST(property, encoder_decoder_stacks_have_their_own_points) {
  LoadedRun run = fresh("form = \"encoder_decoder\"\n");
  const Findings found = look(run, {"activations"}).at(0).findings;
  std::vector<std::string> rows;
  for (const auto& [name, values] : found.figures.at(0).rows) rows.push_back(name);
  EXPECT_EQ(rows.front(), "encoder.stem");
  EXPECT_EQ(rows.back(), "decoder.layers.1.ffn");
  EXPECT_TRUE(says(look(run, {"causality"}).at(0).findings, "causal: no input"));
}

TEST(unit, probes_are_recorded_while_training) {
  const TemporaryFolder folder;
  Recipe recipe = recipe_of("",
                            "[train.probe]\nevery = 3\nkinds = [\"attention_entropy\", "
                            "\"spectrum:of=updates\", \"gradient_norm\"]\n");
  const std::unique_ptr<Processes> processes = Processes::from_environment();
  train_run(recipe, folder.file("run"), *processes, Console{});
  int64_t lines = 0;
  for (const Value& line : read_metrics(folder.file("run/metrics.jsonl"))) {
    const Value* probes = line.find("probes");
    const int64_t step = *line.find("step")->get<int64_t>();
    EXPECT_EQ(probes != nullptr, step % 3 == 0) << step;
    if (!probes) continue;
    ++lines;
    for (const char* name :
         {"attention_entropy", "attention_entropy.bound", "spectrum.update.query"}) {
      ASSERT_NE(probes->find(name), nullptr) << name;
      EXPECT_EQ(probes->find(name)->get<List>()->size(), 2u);
    }
    EXPECT_EQ(probes->find("gradient_norm")->get<List>()->size(), 5u)
        << "stem, two layers, final norm and head";
  }
  EXPECT_EQ(lines, 2);
  const std::string page = read_bytes(folder.file("run/report.html"));
  EXPECT_NE(page.find("\"attention_entropy.bound\""), std::string::npos);
}

TEST(property, probes_of_a_recipe_are_checked) {
  const auto refused = [](const std::string& kinds, std::initializer_list<std::string> words) {
    expect_error([&] { recipe_of("", "[train.probe]\nkinds = " + kinds + "\n"); }, Fault::request,
                 words);
  };
  refused("[\"attention_entropi\"]",
          {"test.toml:", "train.probe.kinds", "did you mean", "'attention_entropy'"});
  refused("[\"causality\"]", {"causality", "formwork inspect", "gradient_norm"});
  refused("[\"activations\", \"activations:massive=10\"]", {"twice"});
  refused("[\"activations:massive=-1\"]", {"massive", "above 0"});
}

}  // namespace
}  // namespace formwork::test

#include "training/checkpoint.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "support/refusal.h"
#include "support/temporary_folder.h"
#include "training/checkpoint_samples.h"

namespace formwork {
namespace {

namespace fs = std::filesystem;
using test::expect_equal;
using test::expect_error;
using test::read_bytes;
using test::sample;
using test::TemporaryFolder;
using test::write_bytes;

std::vector<int64_t> steps(const std::string& run) {
  std::vector<int64_t> found;
  for (const CheckpointPlace& place : list_checkpoints(run)) found.push_back(place.step);
  return found;
}

/// Everything under checkpoints/, hidden or not.
size_t entries(const std::string& run) {
  const fs::path folder = fs::path(run) / "checkpoints";
  return static_cast<size_t>(std::distance(fs::directory_iterator(folder), {}));
}

Checkpoint with_metric(int64_t step, double validation_loss) {
  Checkpoint checkpoint = sample(step, 8);
  checkpoint.progress["validation_loss"] = validation_loss;
  return checkpoint;
}

TEST(unit, checkpoint_round_trip) {
  const TemporaryFolder run;
  Checkpoint saved = sample(7, 1000);
  saved.progress["best"] = 0.1 + 0.2;  // needs all 17 digits
  saved.progress["tokens"] = int64_t{9007199254740993};
  saved.progress["history"] = List{1.0, int64_t{2}, "three", true, Value()};
  saved.model["half"] = at::full({3}, 1.5, at::kBFloat16);
  saved.model["empty"] = at::zeros({0, 4});
  const std::string path = save_checkpoint(run.path(), saved);
  EXPECT_EQ(path, run.file("checkpoints/step-7"));
  for (const std::string& name : {path, path + "/"}) {
    const Checkpoint loaded = load_checkpoint(name);
    expect_equal(loaded, saved);
    EXPECT_EQ(*loaded.progress.find("best")->get<double>(), 0.1 + 0.2);
    EXPECT_EQ(*loaded.progress.find("tokens")->get<int64_t>(), 9007199254740993);
    EXPECT_EQ(loaded.model.at("half").scalar_type(), at::kBFloat16);
  }
  EXPECT_EQ(entries(run.path()), 1u);
}

TEST(unit, checkpoint_of_a_step_is_replaced) {
  const TemporaryFolder run;
  save_checkpoint(run.path(), sample(7, 10));
  Checkpoint other = sample(7, 20);
  other.recipe = "other = true\n";
  save_checkpoint(run.path(), other);
  expect_equal(load_checkpoint(run.file("checkpoints/step-7")), other);
  EXPECT_EQ(entries(run.path()), 1u);
}

TEST(unit, checkpoint_latest_and_rewind) {
  const TemporaryFolder run;
  EXPECT_FALSE(latest_checkpoint(run.path()));
  for (const int64_t step : {90, 100, 1000}) save_checkpoint(run.path(), sample(step, 8));
  fs::create_directories(run.file("checkpoints/step-abc"));
  fs::create_directories(run.file("checkpoints/step-2000-copy"));
  EXPECT_EQ(steps(run.path()), (std::vector<int64_t>{90, 100, 1000}));
  EXPECT_EQ(latest_checkpoint(run.path())->step, 1000);
  remove_checkpoints_after(run.path(), 100);
  EXPECT_EQ(steps(run.path()), (std::vector<int64_t>{90, 100}));
}

TEST(unit, checkpoint_keep_rule) {
  const TemporaryFolder run;
  const std::vector<double> losses{3, 1, 2, 1.5, 4, 5};
  for (size_t i = 0; i < losses.size(); ++i) {
    save_checkpoint(run.path(), with_metric(static_cast<int64_t>(i), losses[i]));
    prune_checkpoints(run.path(), {2, "validation_loss", true});
  }
  EXPECT_EQ(steps(run.path()), (std::vector<int64_t>{1, 4, 5}));
  EXPECT_EQ(entries(run.path()), 3u);
  prune_checkpoints(run.path(), {1, "validation_loss", false});  // the greatest is the last
  EXPECT_EQ(steps(run.path()), (std::vector<int64_t>{5}));
  save_checkpoint(run.path(), sample(6, 8));  // tells no metric
  save_checkpoint(run.path(), with_metric(7, std::nan("")));
  prune_checkpoints(run.path(), {1, "validation_loss", true});
  EXPECT_EQ(steps(run.path()), (std::vector<int64_t>{5, 7}));
  prune_checkpoints(run.path(), {0, "", true});
  EXPECT_EQ(steps(run.path()), (std::vector<int64_t>{7}));
}

TEST(unit, checkpoint_leftovers) {
  const TemporaryFolder run;
  save_checkpoint(run.path(), sample(3, 8));
  fs::create_directories(run.file("checkpoints/.step-4.123.tmp"));
  write_bytes(run.file("checkpoints/.step-4.123.tmp/model.safetensors"), "half");
  // The only copy of a step that was aside when a writer died comes back; a half of one does not.
  save_checkpoint(run.path(), sample(5, 8));
  fs::rename(run.file("checkpoints/step-5"), run.file("checkpoints/.step-5.123.old"));
  save_checkpoint(run.path(), sample(6, 8));
  fs::rename(run.file("checkpoints/step-6"), run.file("checkpoints/.step-6.123.old"));
  fs::remove(run.file("checkpoints/.step-6.123.old/recipe.toml"));
  EXPECT_EQ(latest_checkpoint(run.path())->step, 3);
  remove_leftovers(run.path());
  EXPECT_EQ(steps(run.path()), (std::vector<int64_t>{3, 5}));
  EXPECT_EQ(entries(run.path()), 2u);
}

TEST(fault, checkpoint_missing_folder) {
  const TemporaryFolder run;
  expect_error([&] { load_checkpoint(run.file("checkpoints/step-9")); }, Fault::request,
               {"step-9", "is not a checkpoint", "checkpoints/step-400"});
}

TEST(fault, checkpoint_missing_file) {
  const TemporaryFolder run;
  save_checkpoint(run.path(), sample(1, 8));
  for (const std::string name : {"model.safetensors", "optimizer.safetensors", "recipe.toml",
                                 "progress.json", "checksums.json"}) {
    const std::string path = save_checkpoint(run.path(), sample(2, 8));
    fs::remove(fs::path(path) / name);
    expect_error([&] { load_checkpoint(path); }, Fault::failure,
                 {path + "/" + name, "missing", "--from checkpoints/step-1"});
    std::vector<std::string> damaged;
    EXPECT_EQ(latest_checkpoint(run.path(), &damaged)->step, 1);
    ASSERT_EQ(damaged.size(), 1u);
    EXPECT_NE(damaged[0].find(name), std::string::npos);
  }
}

TEST(fault, checkpoint_truncated) {
  const TemporaryFolder run;
  const std::string path = save_checkpoint(run.path(), sample(2, 8));
  for (const std::string name : {"model.safetensors", "optimizer.safetensors", "recipe.toml",
                                 "progress.json", "checksums.json"}) {
    const std::string file = path + "/" + name, whole = read_bytes(file);
    for (size_t size = 0; size < whole.size(); size += 1 + whole.size() / 40) {
      write_bytes(file, whole.substr(0, size));
      const std::string sentence = expect_error([&] { load_checkpoint(path); }, Fault::failure,
                                                {file, "no other checkpoint of this run is whole"});
      if (name == "checksums.json") continue;
      EXPECT_NE(sentence.find(join_text("truncated: ", whole.size() - size, " of its ",
                                        whole.size(), " bytes are missing")),
                std::string::npos)
          << sentence;
    }
    write_bytes(file, whole + "more");
    expect_error([&] { load_checkpoint(path); }, Fault::failure, {file});
    write_bytes(file, whole);
  }
  EXPECT_FALSE(checkpoint_damage(path));
}

TEST(fault, checkpoint_flipped_bits) {
  const TemporaryFolder run;
  save_checkpoint(run.path(), sample(3, 8));
  const std::string path = save_checkpoint(run.path(), sample(2, 8));
  for (const std::string name : {"model.safetensors", "optimizer.safetensors", "recipe.toml",
                                 "progress.json", "checksums.json"}) {
    const std::string file = path + "/" + name, whole = read_bytes(file);
    for (size_t byte = 0; byte < whole.size(); ++byte) {
      std::string bad = whole;
      bad[byte] = static_cast<char>(bad[byte] ^ (1 << (byte % 8)));
      write_bytes(file, bad);
      const auto damage = checkpoint_damage(path);
      ASSERT_TRUE(damage) << name << " byte " << byte;
      EXPECT_NE(damage->find("altered"), std::string::npos) << *damage;
      EXPECT_NE(damage->find(file), std::string::npos) << *damage;
    }
    write_bytes(file, whole.substr(0, whole.size() - 1) + "~");
    expect_error([&] { load_checkpoint(path); }, Fault::failure,
                 {file, "altered", "--from checkpoints/step-3"});
    write_bytes(file, whole);
  }
}

TEST(fault, checkpoint_under_a_wrong_name) {
  const TemporaryFolder run;
  fs::rename(save_checkpoint(run.path(), sample(2, 8)), run.file("checkpoints/step-9"));
  expect_error([&] { load_checkpoint(run.file("checkpoints/step-9")); }, Fault::failure,
               {"holds step 2"});
  fs::rename(run.file("checkpoints/step-9"), run.file("best"));  // a name without a step is fine
  EXPECT_EQ(load_checkpoint(run.file("best")).step, 2);
}

}  // namespace
}  // namespace formwork
